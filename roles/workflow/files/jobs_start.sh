#!/bin/sh
# The entry point of a workflow's database: the image's own one, and beside it a role for the servers that is no superuser.
#   POSTGRES_USER, POSTGRES_PASSWORD_FILE   the superuser; its password is in this container only
#   CLIENT_PASSWORD_FILE                    the password of the role workflow
set -eu

create_role() {
  PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
  PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export PATH PGPASSWORD
  tries=0
  # The database of an earlier version has tables of the superuser.
  until psql -X -q -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -v ON_ERROR_STOP=1 >/dev/null 2>/tmp/role.log <<'SQL'
\set secret `cat "$CLIENT_PASSWORD_FILE"`
SET password_encryption = 'scram-sha-256';
SELECT 'CREATE ROLE workflow' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'workflow') \gexec
ALTER ROLE workflow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'secret';
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO workflow;
SELECT format('ALTER TABLE %I OWNER TO workflow', tablename) FROM pg_tables
  WHERE schemaname = 'public' AND tableowner <> 'workflow' \gexec
SQL
  do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ]; then
      echo "the role workflow could not be created: $(tail -n 3 /tmp/role.log)" >&2
      return
    fi
    sleep 0.2
  done
}

# A process of its own, whose end PostgreSQL never sees: it takes the end of an unknown child for a crash.
(create_role &)
if [ -x /usr/local/bin/postgres.sh ]; then
  exec /usr/local/bin/postgres.sh "$@"
fi
exec docker-entrypoint.sh postgres "$@"
