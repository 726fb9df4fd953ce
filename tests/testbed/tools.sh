#!/usr/bin/env bash
# tools.sh : installs the programs that the tests call besides Docker, outside the bed (inside it there is no network).
set -euo pipefail
. "$(dirname "$0")/../../bootstrap/lib.sh"

ensure git git
ensure gpg gpg gpg-agent
ensure openssl openssl
ensure dpkg-deb dpkg
ensure ssh openssh-client
ensure chromium chromium fonts-dejavu-core
# The tests start a Prometheus of their own, and check the rules of the role monitoring. The services are left as they are.
ensure prometheus prometheus
ensure amtool prometheus-alertmanager
# The tests start a PostgreSQL server of their own; the distribution's service is left as it is.
[ -n "$(compgen -G '/usr/lib/postgresql/*/bin/postgres')" ] || apt_install postgresql
