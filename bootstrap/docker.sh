#!/usr/bin/env bash
# docker.sh [--client] : installs and starts a Docker Engine with Compose v2 and buildx; with --client the engine need not run.
# Does nothing if they are present. ANVIL_INSTALL_DOCKER=no forbids installing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" = --client ] && needs_engine=no || needs_engine=yes

# Prints which parts are missing. It runs the client itself: an old `docker` earlier on PATH may lack plugins that another one has.
missing() { # in parallel: each check starts a client
  docker compose version >/dev/null 2>&1 || echo compose &
  docker buildx version >/dev/null 2>&1 || echo buildx &
  [ "$needs_engine" = no ] || docker version >/dev/null 2>&1 || echo engine &
  wait
}

packages() {
  case "$(os_release ID):$(os_release VERSION_CODENAME)" in
    ubuntu:*) echo docker.io docker-compose-v2 docker-buildx iptables ;;
    debian:bookworm | debian:*) echo docker.io docker-cli docker-compose docker-buildx iptables ;;
    *) die "this script installs Docker on Debian and Ubuntu only; on $(os_release PRETTY_NAME), please install Docker Engine, Compose v2 and buildx by hand" ;;
  esac
}

# Debian 12 has no Compose v2: only the four docker packages come from trixie, so that libc is not replaced.
add_trixie() {
  cat > /etc/apt/sources.list.d/anvil-trixie.sources <<SOURCE
Types: deb
URIs: $(distribution_mirror)
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
  cat > /etc/apt/preferences.d/anvil-trixie <<'PIN'
Package: *
Pin: release n=trixie
Pin-Priority: 100

Package: docker.io docker-cli docker-compose docker-buildx
Pin: release n=trixie
Pin-Priority: 990
PIN
  apt-get update -qq
}

install_docker() {
  say "installing $(packages)"
  if [ "$(os_release VERSION_CODENAME)" = bookworm ] && [ -z "$(apt_mirror trixie)" ]; then add_trixie; fi
  # shellcheck disable=SC2046  # a list of package names
  apt_install $(packages)
  hash -r
}

start_engine() {
  say "starting the Docker Engine"
  if [ -d /run/systemd/system ]; then
    systemctl enable --now docker
  else # a container or a VM without an init
    [ ! -e /run/docker.pid ] || [ -d "/proc/$(cat /run/docker.pid)" ] || rm -f /run/docker.pid
    setsid --fork dockerd >>/var/log/dockerd.log 2>&1 </dev/null
  fi
  for _ in $(seq 120); do docker version >/dev/null 2>&1 && return; sleep .25; done
  die "the Docker Engine does not answer; read its log: journalctl -u docker, or /var/log/dockerd.log"
}

lacking=$(missing | paste -sd' ')
[ -n "$lacking" ] || exit 0

# This script never starts or installs a Docker Engine that DOCKER_HOST names.
[ "$needs_engine" = no ] || [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST=$DOCKER_HOST lacks: $lacking; start or repair that Docker Engine, or unset DOCKER_HOST"
if ! is_root || [ "${ANVIL_INSTALL_DOCKER:-yes}" = no ]; then
  {
    is_root && why="ANVIL_INSTALL_DOCKER=no" || why="not root"
    echo "error: Docker lacks: $lacking. Nothing was installed ($why). Run as root:"
    echo "    $ROOT/bootstrap/docker.sh"
    if [ "$(os_release VERSION_CODENAME)" = bookworm ]; then
      echo "(Debian 12 has no Compose v2: the script adds trixie as an apt source for the docker packages only)"
    else
      echo "or, by hand:"
      echo "    apt-get install $(packages) && systemctl enable --now docker"
    fi
    is_root || echo "If Docker is installed and you only lack permission to use it: usermod -aG docker $(id -un), then log in again."
  } >&2
  exit 1
fi

case $lacking in *compose* | *buildx*) install_docker ;; *) have dockerd || install_docker ;; esac
[ "$needs_engine" = no ] || docker version >/dev/null 2>&1 || start_engine
lacking=$(missing | paste -sd' ')
[ -z "$lacking" ] || die "$(command -v docker) still lacks: $lacking; an older client earlier on PATH hides the installed one: remove it or change PATH"
