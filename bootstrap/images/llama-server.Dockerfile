# llama-server without a model: mount models under /models.
FROM scratch
ADD llama.tar /
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk
ENV HOME=/tmp LLAMA_ARG_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["llama-server"]
