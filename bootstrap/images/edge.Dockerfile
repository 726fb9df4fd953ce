# HAProxy for the edge, from the distribution's package, without a configuration.
FROM scratch
ADD edge.tar /
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk
USER 10001:10001
EXPOSE 8000
# On SIGUSR1 haproxy lets streams finish; on SIGTERM it cuts them.
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-W", "-db", "-f", "/etc/anvil-edge/haproxy.cfg"]
