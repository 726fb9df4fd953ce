#!/bin/sh
# The start of our PostgreSQL image. It reads what the public image reads, as far as it is used here:
# POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE, PGDATA; further words are options of the server.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Made beside its place and moved there when it is whole: a start that is killed half-way begins anew.
  rm -rf "$PGDATA.new"
  initdb --pgdata="$PGDATA.new" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --encoding=UTF8 \
    --locale=C.UTF-8 >/dev/null
  echo "host all all all scram-sha-256" >> "$PGDATA.new/pg_hba.conf"
  echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA.new" postgres >/dev/null
  mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
