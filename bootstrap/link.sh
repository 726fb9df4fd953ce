#!/usr/bin/env bash
# link.sh : links this checkout into .cache/collections, so that Ansible finds it as the collection anvil.serving (see ansible.cfg).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
link=$CACHE/collections/ansible_collections/anvil/serving
[ "$(realpath -m "$link")" = "$ROOT" ] && exit 0
mkdir -p "$(dirname "$link")"
ln -sfn "$ROOT" "$link"
