#!/usr/bin/env bash
# lock.sh : writes requirements/*.lock again: every pinned package with the hashes of all its files, for pip's --require-hashes.
# It contacts the package index that UV_INDEX_URL or pip's configuration names. Run it after a change of a requirements file.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
venv=$ROOT/.venv-lock
"$ROOT/bootstrap/venv.sh" "$venv" "$ROOT/requirements/lock.txt"
index=${UV_INDEX_URL:-$("$venv/bin/pip" config get global.index-url 2>/dev/null || true)}
[ -z "$index" ] || export UV_INDEX_URL=$index

# lock NAME REQUIREMENTS [uv options...]
lock() {
  local name=$1 requirements=$2
  shift 2
  say "locking $name"
  "$venv/bin/uv" pip compile --quiet --no-header --no-annotate --generate-hashes "$@" "$requirements" -o "$ROOT/requirements/$name.lock"
}

files=$ROOT/roles/workflow/files
# The lists of the images are complete, so nothing is resolved.
lock server "$files/requirements.txt" --no-deps --python-version 3.13
lock server-postgres "$files/requirements-postgres.txt" --no-deps --python-version 3.13
lock mlflow "$files/mlflow-requirements.txt" --no-deps --python-version 3.13
lock aiperf "$ROOT/templates/images/aiperf-requirements.txt" --no-deps --python-version 3.13
lock router "$ROOT/requirements/router.txt" --no-deps --python-version 3.13
lock router-gateway "$ROOT/requirements/router-gateway.txt" --no-deps --python-version 3.13
lock pip "$ROOT/requirements/pip.txt" --no-deps --python-version 3.13
lock site "$ROOT/requirements/site.txt" --universal --python-version 3.11

# The digest of each public base image that bootstrap/images.sh builds on, as its registry gives it; else the one that is there.
bases=$ROOT/requirements/base-images.lock
kept=$(cat "$bases")
grep '^#' <<<"$kept" > "$bases"
grep -oE '(docker\.io|ghcr\.io)/[A-Za-z0-9./_-]+:[A-Za-z0-9._-]+' "$ROOT/bootstrap/images.sh" | sort -u | while read -r name; do
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$name" 2>/dev/null) ||
    digest=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$kept")
  if [ -n "$digest" ]; then echo "$name $digest" >> "$bases"; else say "no registry gives the digest of $name; its tag is not locked"; fi
done
