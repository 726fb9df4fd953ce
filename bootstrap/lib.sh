# shellcheck shell=bash
# What the bootstrap scripts share. Source it; it prints nothing and changes nothing by itself.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # for those who source this
CACHE=${ANVIL_CACHE:-$ROOT/.cache}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }
os_release() { (. /etc/os-release && eval "printf %s \"\${$1:-}\""); }

# apt_install PACKAGE... : the package lists may be missing or old (a fresh image), so a first failure refreshes them.
# The lock has a time-out because a new machine may still be running its unattended upgrades. Ours come one after the other:
# two that refresh the lists at once would fail.
apt_install() {
  local options=(-qq -y --no-install-recommends -o DPkg::Lock::Timeout=300)
  have apt-get || die "no apt-get here; please install: $*"
  is_root || die "not root; please run: apt-get install $*"
  export DEBIAN_FRONTEND=noninteractive
  {
    flock 9
    apt-get install "${options[@]}" "$@" >/dev/null 2>&1 9>&- ||
      { apt-get update -qq 9>&- && apt-get install "${options[@]}" "$@" >/dev/null 9>&-; }
  } 9>/run/anvil-apt.lock
}

# ensure COMMAND PACKAGE... : the command is there, if need be by these packages.
ensure() { have "$1" || { say "installing ${*:2}"; apt_install "${@:2}"; }; }

# apt_mirror SUITE : where this machine's own apt gets SUITE from (empty when it does not), so that no host is named here.
apt_mirror() {
  # shellcheck disable=SC2016  # apt's variables
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$1" '$2 == suite && $3 == "main" { print $1; exit }'
}

# distribution_mirror : the archive this distribution came from; it holds the neighbouring releases too.
distribution_mirror() {
  local suite mirror
  for suite in "$(os_release VERSION_CODENAME)" stable; do
    mirror=$(apt_mirror "$suite")
    [ -z "$mirror" ] || { echo "$mirror"; return; }
  done
  die "apt has no source for $(os_release PRETTY_NAME) itself"
}
