#!/usr/bin/env bash
# link.sh : lets Ansible find this checkout as the collection anvil.serving (ansible.cfg names .cache/collections).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
link=$CACHE/collections/ansible_collections/anvil/serving
[ "$(realpath -m "$link")" = "$ROOT" ] && exit 0
mkdir -p "$(dirname "$link")"
ln -sfn "$ROOT" "$link"
