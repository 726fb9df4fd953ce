# Stands in for python:3-slim where no registry is: the distribution's python3 and a shell.
FROM scratch
ADD router.tar /
# No maintainer script has run in this root: what some of them would have made. Without the bytecode, each start of a python
# would compile what it imports, for half a second of processor time: what runs on this image may not write it.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && cat /usr/share/ca-certificates/mozilla/*.crt > /etc/ssl/certs/ca-certificates.crt && chmod 1777 /tmp \
 && ln -sf mawk /usr/bin/awk \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/lib/python3*
CMD ["python3"]
