# Stands in for python:3-slim where no registry is: the distribution's python3 and a shell.
FROM scratch
ADD router.tar /
# No maintainer script has run in this root: what two of them would have made.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && cat /usr/share/ca-certificates/mozilla/*.crt > /etc/ssl/certs/ca-certificates.crt && chmod 1777 /tmp \
 && ln -sf mawk /usr/bin/awk
CMD ["python3"]
