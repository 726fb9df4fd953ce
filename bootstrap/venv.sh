#!/usr/bin/env bash
# venv.sh DIR REQUIREMENTS [pip options...] : a virtual environment with exactly these requirements; costs milliseconds when it is there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
dir=$1 requirements=$2
shift 2

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# An interpreter of the venv itself, if its folder is on PATH, is not the one to make it with.
PATH=$(tr : '\n' <<<"$PATH" | grep -vxF "$(realpath -m "$dir")/bin" | paste -sd:)
# The distribution's is built with optimisations that those of version managers lack: ansible-playbook takes a quarter less time.
python=${ANVIL_PYTHON:-/usr/bin/python3}
[ -n "${ANVIL_PYTHON:-}" ] || is_new_enough "$python" || python=python3

# It covers the file, those that it may include, the interpreter, and the place: a venv cannot be moved.
stamp() { { cat "$(dirname "$requirements")"/*.txt "$ROOT"/roles/*/files/requirements*.txt; echo "$requirements $(realpath -m "$dir") $(command -v "$python")"; } | sha256sum; }
[ ! -x "$dir/bin/python" ] || [ "$(cat "$dir/.anvil-stamp" 2>/dev/null)" != "$(stamp)" ] || exit 0

have "$python" || { say "installing python3"; apt_install python3 python3-venv; }
is_new_enough "$python" ||
  die "$("$python" --version) is too old: Python 3.11 or newer is needed (name one with ANVIL_PYTHON=...)"
"$python" -c 'import ensurepip, venv' 2>/dev/null || { say "installing python3-venv"; apt_install python3-venv; }

say "creating $dir from $requirements"
rm -rf "$dir"
"$python" -m venv "$dir"
"$dir/bin/pip" install -qq --disable-pip-version-check "$@" --requirement "$requirements"
stamp > "$dir/.anvil-stamp"
