# The image of the llama.cpp project with the settings of ours: llama-server on PATH, no root.
ARG BASE
FROM $BASE
RUN ln -s /app/llama-server /usr/local/bin/llama-server
ENV HOME=/tmp LLAMA_ARG_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["llama-server"]
