# Replaces python:3-slim if no registry answers: the distribution's python3 and a shell.
FROM scratch
ADD router.tar /
# No maintainer script has run in this root, so create the files that some of them create. Containers of this image may not write
# bytecode: without it each start of Python spends half a second of processor time on compiling its imports.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && cat /usr/share/ca-certificates/mozilla/*.crt > /etc/ssl/certs/ca-certificates.crt && chmod 1777 /tmp \
 && ln -sf mawk /usr/bin/awk \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/lib/python3*
CMD ["python3"]
