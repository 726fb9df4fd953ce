# The public image with the settings of ours: haproxy as the entry point, no root. Its Debian contains perl-base.
ARG BASE
FROM $BASE
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-W", "-db", "-f", "/etc/anvil-edge/haproxy.cfg"]
