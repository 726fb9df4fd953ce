# PostgreSQL from the distribution's package. Its data is in the volume /var/lib/postgresql/data.
FROM scratch
ADD postgres.tar /
COPY --from=recipe postgres.sh /usr/local/bin/postgres.sh
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && cp /usr/share/base-passwd/group.master /etc/group \
 && echo anvil:x:10001:10001::/var/lib/postgresql:/usr/sbin/nologin >> /etc/passwd && echo anvil:x:10001: >> /etc/group \
 && chmod 1777 /tmp && ln -sf mawk /usr/bin/awk && chmod 0755 /usr/local/bin/postgres.sh \
 && mkdir -p /var/lib/postgresql/data && chown -R 10001:10001 /var/lib/postgresql
ENV PGDATA=/var/lib/postgresql/data/cluster
USER 10001:10001
WORKDIR /var/lib/postgresql
EXPOSE 5432
# SIGINT is PostgreSQL's fast shutdown: it ends the sessions; committed data is on disk.
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/postgres.sh"]
