# The public image with the settings of ours: it never runs as root. Any uid may write its data folder.
ARG BASE
FROM $BASE
ENV PGDATA=/var/lib/postgresql/data/cluster
USER 10001:10001
STOPSIGNAL SIGINT
