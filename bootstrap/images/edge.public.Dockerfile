# The public image, made to look like ours: haproxy as the entry point, no root. Its Debian brings perl-base.
ARG BASE
FROM $BASE
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-W", "-db", "-f", "/etc/anvil-edge/haproxy.cfg"]
