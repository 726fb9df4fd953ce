# shellcheck shell=bash
# Functions shared by the bootstrap scripts. Source it: it prints nothing and changes nothing.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # used by the scripts that source this file
CACHE=${ANVIL_CACHE:-$ROOT/.cache}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }
os_release() { (. /etc/os-release && eval "printf %s \"\${$1:-}\""); }

# apt_install PACKAGE... : installs packages. If that fails, it refreshes the package lists (a fresh image has none) and retries.
# The time-out waits for dpkg's lock, which unattended upgrades hold on a new machine. Our own lock makes callers take turns:
# two refreshes of the lists at the same time fail.
apt_install() {
  local options=(-qq -y --no-install-recommends -o DPkg::Lock::Timeout=300)
  have apt-get || die "this machine has no apt-get; please install: $*"
  is_root || die "installing packages needs root; please run: apt-get install $*"
  export DEBIAN_FRONTEND=noninteractive
  {
    flock 9
    apt-get install "${options[@]}" "$@" >/dev/null 2>&1 9>&- ||
      { apt-get update -qq 9>&- && apt-get install "${options[@]}" "$@" >/dev/null 9>&-; }
  } 9>/run/anvil-apt.lock
}

# ensure COMMAND PACKAGE... : installs the packages if the command is missing.
ensure() { have "$1" || { say "installing ${*:2}"; apt_install "${@:2}"; }; }

# apt_mirror SUITE : prints the URL from which this machine's apt gets SUITE, or nothing. No mirror is hard-coded here.
apt_mirror() {
  # shellcheck disable=SC2016  # apt's variables
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$1" '$2 == suite && $3 == "main" { print $1; exit }'
}

# distribution_mirror : prints the archive of this distribution, which holds the neighbouring releases too.
distribution_mirror() {
  local suite mirror
  for suite in "$(os_release VERSION_CODENAME)" stable; do
    mirror=$(apt_mirror "$suite")
    [ -z "$mirror" ] || { echo "$mirror"; return; }
  done
  die "apt has no source for $(os_release PRETTY_NAME); add one to /etc/apt/sources.list.d"
}
