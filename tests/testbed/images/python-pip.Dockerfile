# A Python with pip, as the public images of engines have one, and what vLLM for CPUs asks of the system.
FROM scratch
ADD python-pip.tar /
# No maintainer script has run in this root: what some of them would have made.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk
CMD ["python3"]
