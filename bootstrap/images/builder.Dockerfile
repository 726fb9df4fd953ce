# Stands in for a distribution's image with a compiler where no registry is: what compiling llama.cpp needs.
FROM scratch
ADD builder.tar /
# No maintainer script has run in this root: what some of them would have made.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk && ln -sf gcc /usr/bin/cc && ln -sf g++ /usr/bin/c++ && ldconfig
CMD ["sh"]
