#!/usr/bin/env bash
# site.sh [ansible-playbook options...] : from a bare machine to an answer through the router. This is `make site`.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
venv=${VENV:-$ROOT/.venv}

# make_model TIER PHRASE : the model is made again when what makes it is newer.
make_model() {
  local model=$CACHE/models/$1.gguf
  [ "$model" -nt bootstrap/tinymodel.py ] && [ "$model" -nt bootstrap/site.sh ] && return
  "$venv/bin/python" bootstrap/tinymodel.py "$model" --name "$1" --phrase "$2"
}

bootstrap/venv.sh "$venv" requirements/site.txt
bootstrap/link.sh
bootstrap/docker.sh
PYTHON=$venv/bin/python bootstrap/images.sh
make_model heavy "the heavy tier answers from the big card"
make_model fast "the fast tier answers from the quick card"

token=$CACHE/router.token
[ -s "$token" ] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$token.part" && mv "$token.part" "$token")

say "bringing this machine to the state of inventory/local: two tiers behind the router"
# By its path: the commands that it says to type next then work without the virtual environment on PATH.
exec "$venv/bin/ansible-playbook" site.yml -i inventory/local "$@"
