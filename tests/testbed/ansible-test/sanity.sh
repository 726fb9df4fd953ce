#!/usr/bin/env bash
# sanity.sh VENV [ansible-test sanity options...] : runs ansible-test sanity on a copy of the checkout; needs only a package index.
# ansible-test requires the collection under ansible_collections/NAMESPACE/NAME and in a git work tree of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../../.." && pwd)
venv=$(realpath "$1")
shift
# Without shellcheck, ansible-test skips its shellcheck test with only a warning.
. "$here/../../../bootstrap/lib.sh"
ensure shellcheck shellcheck
copy=$repo/.cache/sanity/ansible_collections/anvil/serving

rm -rf "$copy"
mkdir -p "$copy"
cd "$repo"
# Copy tracked and new files. git also lists files that are deleted but not committed.
git ls-files -z --cached --others --exclude-standard | while IFS= read -rd '' f; do if [ -e "$f" ]; then printf '%s\0' "$f"; fi; done |
  tar --null --files-from=- -cf - | tar -C "$copy" -xf -
cd "$copy"
git init -q . && git add -A && git -c user.name=sanity -c user.email=sanity@localhost commit -qm copy

# Keep ansible-test's cache out of the user's home, but use the user's pip settings.
users_home=$HOME
export HOME=$repo/.cache/sanity/home
mkdir -p "$HOME/.config"
for settings in .config/pip .pip; do [ ! -e "$users_home/$settings" ] || ln -sfn "$users_home/$settings" "$HOME/$settings"; done

# ansible-test would download a bootstrap script for pip. get_pip.py, stored under the name it expects, unpacks a wheel of that version.
cache=$HOME/.ansible/test/cache
mkdir -p "$cache"
wanted=$(grep -hoE "\bpip='[0-9.]+'" "$venv"/lib/python3*/site-packages/ansible_test/_internal/python_requirements.py | grep -oE '[0-9.]+[0-9]' || :)
for version in ${wanted:-24.2}; do
  wheel=$cache/pip-$version-py3-none-any.whl
  [ -e "$wheel" ] || "$venv/bin/pip" download -qq --disable-pip-version-check --no-deps --dest "$cache" "pip==$version"
  sed "s|@WHEEL@|$wheel|" "$here/get_pip.py" > "$cache/get_pip_${version//./_}.py"
done

# Test on the venv's Python, on the oldest that a host may have and on the newest; each takes 15 s.
# pyenv's shims also exist for versions that are not enabled, so the interpreters themselves go on PATH.
PATH=$(tr : '\n' <<<"$PATH" | grep -v pyenv/shims | paste -sd:)
for bin in "$users_home"/.pyenv/versions/3.{9,13}.*/bin; do [ ! -d "$bin" ] || PATH=$PATH:$bin; done
export PATH=$venv/bin:$PATH LC_ALL=C.UTF-8
# ruff checks tests and benchmarks; pylint would take half a minute for them.
exec ansible-test sanity --color no --exclude tests/ --exclude bench/ "$@"
