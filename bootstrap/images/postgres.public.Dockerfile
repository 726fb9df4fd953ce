# The public image, made to look like ours: it never runs as root. Its data folder may be written by any uid.
ARG BASE
FROM $BASE
ENV PGDATA=/var/lib/postgresql/data/cluster
USER 10001:10001
STOPSIGNAL SIGINT
