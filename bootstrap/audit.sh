#!/usr/bin/env bash
# audit.sh : compares every locked package with the known vulnerabilities (pip-audit, the database of the package index or OSV).
# exit status: 0 no known vulnerability, 1 at least one, 3 the database cannot be reached, so nothing was compared.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
venv=$ROOT/.venv-audit
"$ROOT/bootstrap/venv.sh" "$venv" "$ROOT/requirements/audit.txt"
service=${ANVIL_AUDIT_SERVICE:-osv} found=0 output=$(mktemp)
trap 'rm -f "$output"' EXIT
for lock in "$ROOT"/requirements/*.lock; do
  [ "$(basename "$lock")" != base-images.lock ] || continue
  say "auditing $(basename "$lock")"
  code=0
  "$venv/bin/pip-audit" --progress-spinner off --vulnerability-service "$service" --timeout 20 --disable-pip --no-deps \
    --requirement "$lock" >"$output" 2>&1 || code=$?
  if [ "$code" = 0 ]; then continue; fi
  if grep -qE 'ServiceError|ConnectionError|Connection(Refused|Reset)|Max retries|NameResolution|Timeout|HTTPError|RequestException' "$output" &&
    ! grep -q 'Found .* known vulnerabilit' "$output"; then
    tail -n 3 "$output" >&2
    say "not audited: the database ($service) cannot be reached from this machine; run make audit where it can"
    exit 3
  fi
  cat "$output"
  found=1
done
[ "$found" = 0 ] && say "audit: no known vulnerability in the locked packages"
exit "$found"
