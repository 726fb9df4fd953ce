#!/usr/bin/env bash
# tools.sh : what the tests call besides Docker, from the distribution. Before the bed is entered: inside it is no network.
set -euo pipefail
. "$(dirname "$0")/../../bootstrap/lib.sh"

ensure git git
ensure gpg gpg gpg-agent
ensure openssl openssl
ensure dpkg-deb dpkg
ensure ssh openssh-client
ensure chromium chromium fonts-dejavu-core
# Not for its service, which stays as the distribution left it: the tests start one of their own.
[ -n "$(compgen -G '/usr/lib/postgresql/*/bin/postgres')" ] || apt_install postgresql
