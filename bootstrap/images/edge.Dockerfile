# HAProxy in front of the router's replicas, from the distribution's package. It holds no configuration.
FROM scratch
ADD edge.tar /
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk
USER 10001:10001
EXPOSE 8000
# haproxy ends its streams on SIGUSR1 and cuts them on SIGTERM.
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-W", "-db", "-f", "/etc/anvil-edge/haproxy.cfg"]
