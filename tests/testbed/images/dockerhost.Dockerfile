# A Docker host in a container, with simulated GPUs behind the nvidia driver of its Docker Engine.
FROM scratch
ADD dockerhost.tar /
RUN mkdir -p /run/sshd && rm -f /etc/ssh/ssh_host_*
COPY --from=gpus --chmod=755 nvidia-smi nvidia-container-runtime-hook nvidia-container-runtime-hook.py hostd /usr/local/bin/
VOLUME /var/lib/docker
EXPOSE 22
ENTRYPOINT ["tini", "--", "/usr/local/bin/hostd"]
