#!/usr/bin/env bash
# venv.sh DIR REQUIREMENTS [pip options...] : makes a virtual environment with these requirements. Takes milliseconds if it is up to date.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
dir=$1 requirements=$2
shift 2

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Drop the venv's own folder from PATH: its interpreter cannot create it.
PATH=$(tr : '\n' <<<"$PATH" | grep -vxF "$(realpath -m "$dir")/bin" | paste -sd:)
# Prefer the distribution's Python: it is built with optimisations that version managers leave out, and ansible-playbook takes a
# quarter less time on it.
python=${ANVIL_PYTHON:-/usr/bin/python3}
[ -n "${ANVIL_PYTHON:-}" ] || is_new_enough "$python" || python=python3

# The stamp covers the requirements, the files they may include, the interpreter, and the folder, because a venv cannot be moved.
stamp() { { cat "$(dirname "$requirements")"/*.{txt,lock} "$ROOT"/roles/*/files/requirements*.txt 2>/dev/null || :; echo "$requirements $(realpath -m "$dir") $(command -v "$python")"; } | sha256sum; }
[ ! -x "$dir/bin/python" ] || [ "$(cat "$dir/.anvil-stamp" 2>/dev/null)" != "$(stamp)" ] || exit 0

have "$python" || { say "installing python3"; apt_install python3 python3-venv; }
is_new_enough "$python" ||
  die "$("$python" --version) is too old: Python 3.11 or newer is needed; name one with ANVIL_PYTHON=/path/to/python"
"$python" -c 'import ensurepip, venv' 2>/dev/null || { say "installing python3-venv"; apt_install python3-venv; }

say "creating $dir from $requirements"
rm -rf "$dir"
"$python" -m venv "$dir"
# A lock file holds every package with its hashes, so what a package index serves is what was there when it was locked.
if [ -e "${requirements%.txt}.lock" ]; then set -- "$@" --require-hashes --requirement "${requirements%.txt}.lock"; else set -- "$@" --requirement "$requirements"; fi
"$dir/bin/pip" install -qq --disable-pip-version-check "$@"
stamp > "$dir/.anvil-stamp"
