# Replaces a distribution's image with a compiler if no registry answers: the tools that compile llama.cpp.
FROM scratch
ADD builder.tar /
# No maintainer script has run in this root, so create the files that some of them create.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk && ln -sf gcc /usr/bin/cc && ln -sf g++ /usr/bin/c++ && ldconfig
CMD ["sh"]
