#!/bin/sh
# collect_llama.sh OUT FILE... : checks a llama-server with its libraries, all of them, and copies them and every library of the
# system that they need below OUT, each to its own path. OUT "-" only checks.
#   DRIVER="libcuda.so.1"   libraries that come with the driver when a container starts
#   SM="90 120"             architectures that the CUDA library must hold code for
# It runs in a build, with od, grep, sed and ldd (cuobjdump for SM).
set -eu
out=$1
shift
wrong=0

say() {
  printf 'collect_llama: %s\n' "$*" >&2
  wrong=1
}

first_bytes() { od -An -tx1 -N4 "$1" | tr -d ' \n'; }
machine() { od -An -tx1 -j18 -N2 "$1" | tr -d ' \n'; } # e_machine of an ELF header

# The processor that executes this script is the one that the image is for.
here=$(machine /proc/self/exe)

check_format() {
  case $(first_bytes "$1") in
    7f454c46)
      [ "$(machine "$1")" = "$here" ] && return 0
      say "$1 was built for another processor (ELF machine $(machine "$1"), this image is $here):" \
        "it would end with 'Exec format error'. Build it for this platform." ;;
    cffaedfe | cefaedfe | feedfacf | feedface | cafebabe)
      say "$1 is a macOS program (Mach-O): a Linux container cannot execute it, and would end with 'Exec format error' (errno 8)." \
        "Compile llama.cpp in the image (git, archive, sdist), name a Linux build, or leave the server on the Mac as an external server (anvil_external)." ;;
    4d5a*) say "$1 is a Windows program: a Linux container cannot execute it. Name a Linux build." ;;
    *) say "$1 is not a program (it begins with $(first_bytes "$1")): it may be cut short, or a Git LFS pointer" ;;
  esac
  return 1
}

needs() { ldd "$1" 2>/dev/null || true; } # a static one needs nothing

check_libraries() {
  newer=$(ldd "$1" 2>&1 | sed -n "s/.*version \`\([^']*\)' not found.*/\1/p" | sort -u | tr '\n' ' ')
  [ -z "$newer" ] || say "$1 needs ${newer}of the C library, and the one here is older: take a build for this release, or a newer base"
  for library in $(needs "$1" | sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p'); do
    case " ${DRIVER:-} " in
      *" $library "*) ;;
      *) say "$1 needs $library, which is not in the image" ;;
    esac
  done
}

check_gpu() {
  case ${SM:+$1} in *libggml-cuda.so*) ;; *) return 0 ;; esac
  for sm in $SM; do
    cuobjdump --list-elf "$1" | grep -q "sm_$sm\." || say "$1 holds no code for sm_$sm"
  done
}

put() { # a symbolic link stays a link; its target is put beside it
  [ "$out" != - ] && [ ! -e "$out$1" ] || return 0
  mkdir -p "$out${1%/*}"
  cp -P "$1" "$out$1"
  if [ -L "$1" ]; then
    case $(readlink "$1") in
      /*) put "$(readlink "$1")" ;;
      *) put "${1%/*}/$(readlink "$1")" ;;
    esac
  fi
}

for file in "$@"; do
  [ -e "$file" ] || { say "$file is not there"; continue; }
  check_format "$file" || continue
  check_libraries "$file"
  check_gpu "$file"
  put "$file"
  for library in $(needs "$file" | sed -n -e 's/^[[:space:]]*[^ ]* => \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p'); do
    put "$library"
  done
done
exit $wrong
