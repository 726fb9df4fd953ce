# Python with pip, as in the public images of engines, and the system packages that vLLM for CPUs needs.
FROM scratch
ADD python-pip.tar /
# No maintainer script has run in this root, so create the files that some of them create.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk
CMD ["python3"]
