#!/usr/bin/env bash
# build.sh VENV [sphinx-build options...] : the documentation as a site in .cache/docs/html. Any warning fails the build.
# The pages are docs/*.md; the reference comes from the documentation of the modules and roles themselves.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
bin=$(realpath "$1")/bin
shift
site=$repo/.cache/docs
source=$site/source
# Everything is built again: Sphinx warns of a page only when it reads it, and a page that was renamed must not stay.
rm -rf "$site"
mkdir -p "$source/reference"
# The settings of the checkout and of the user are not those of the documentation.
export ANSIBLE_CONFIG=$site/ansible.cfg ANSIBLE_COLLECTIONS_PATH=$repo/.cache/collections PATH=$bin:$PATH
: > "$ANSIBLE_CONFIG"

python "$here/picture.py" --check
cp -r "$repo"/docs/*.md "$repo/docs/images" "$here"/{index.md,conf.py,static} "$source/"
antsibull-docs --config-file "$here/antsibull-docs.cfg" collection \
  --use-current --squash-hierarchy --fail-on-error --dest-dir "$source/reference" anvil.serving
sphinx-build -q --fail-on-warning --keep-going --nitpicky -j auto -b html -d "$site/doctrees" "$@" "$source" "$site/html"
echo "$site/html/index.html"
