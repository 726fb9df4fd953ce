#!/usr/bin/env bash
# roots.sh NAME... : makes root file systems from the distribution's packages, as .cache/roots/NAME.tar, if no image registry answers.
#   router    python3, a shell and the libraries of compiled wheels, in the release of this machine
#   llama     llama-server and a shell: Debian's package, else compiled
#   registry  docker-registry
#   edge      haproxy, and perl-base for access to its runtime socket
#   postgres  the PostgreSQL of the release, without its JIT compiler and without perl
#   dockerhost  a Docker host: Docker Engine, Compose, python3, ssh
#   builder     a C++ compiler and cmake, in the release of this machine
#   python-pip  python3 with pip, and the system packages that vLLM for CPUs needs (libnuma, lscpu)
# An "extract" root runs no maintainer scripts: it takes a fifth of the time and half the size of a bootstrapped one.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
here=$ROOT/bootstrap
shell=base-files,base-passwd,dash,coreutils,mawk
codename=$(os_release VERSION_CODENAME)
debian() { [ "$(os_release ID)" = debian ]; }

# bootstrap NAME SUITE VARIANT PACKAGES [mmdebstrap options...]
bootstrap() {
  local name=$1 suite=$2 variant=$3 packages=$4 hooks=/usr/share/mmdebstrap/hooks/merged-usr step=customize
  shift 4
  [ "$variant" != extract ] || step=extract # mmdebstrap runs no customize hooks for extract
  debian || set -- --components=main,universe "$@"
  # Remove documents and the apt sources of this machine from the image.
  # shellcheck disable=SC2016  # $1 is mmdebstrap's
  mmdebstrap --quiet --variant="$variant" --hook-dir="$hooks" --include="$packages" \
    --aptopt='Acquire::Check-Valid-Until "false"' "$@" \
    --$step-hook='rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/etc/apt/sources.list*' \
    "$suite" "$CACHE/roots/.$name.$$.tar" "$(distribution_mirror)" 2>"$CACHE/roots/$name.log" ||
    { tail -5 "$CACHE/roots/$name.log" >&2; die "cannot make the root file system '$name'"; }
}

# Compiles a static llama-server from the llama.cpp source in the sdist of llama-cpp-python. Takes minutes; used if no package has it.
compile_llama() {
  local build=$CACHE/llama.cpp
  say "compiling llama-server (minutes, once)"
  ensure cmake cmake
  ensure ninja ninja-build
  ensure g++ g++
  mkdir -p "$build/src"
  "${PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$build" llama-cpp-python==0.3.36
  tar -xzf "$build"/llama_cpp_python-0.3.36.tar.gz -C "$build/src" --strip-components=1
  cmake -S "$build/src/vendor/llama.cpp" -B "$build/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_OPENMP=OFF -DGGML_BACKEND_DL=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TOOLS=ON \
    -DCMAKE_EXE_LINKER_FLAGS=-static >"$CACHE/roots/llama.log"
  cmake --build "$build/build" --target llama-server -j"$(nproc)" >>"$CACHE/roots/llama.log"
  strip "$build/build/bin/llama-server"
}

make_root() {
  local name=$1
  [ ! "$CACHE/roots/$name.tar" -nt "$here/roots.sh" ] || return 0
  say "making the root file system '$name' from the distribution's packages"
  case $name in
    router) bootstrap router "$codename" extract "$shell,python3,ca-certificates,libstdc++6" ;;
    edge) bootstrap edge "$codename" extract "$shell,haproxy,perl-base" ;;
    postgres)
      # shellcheck disable=SC2016  # $1 is mmdebstrap's
      bootstrap postgres "$codename" extract "$shell,postgresql" \
        --extract-hook='rm -rf "$1"/usr/lib/llvm* "$1"/usr/lib/*/libLLVM* "$1"/usr/lib/*/libz3* "$1"/usr/lib/*/perl "$1"/usr/share/perl*' \
        --extract-hook='rm -rf "$1"/usr/lib/postgresql/*/lib/bitcode "$1"/usr/lib/postgresql/*/lib/llvmjit*' ;;
    registry) bootstrap registry "$codename" extract "$shell,docker-registry" ;;
    builder) bootstrap builder "$codename" extract "$shell,g++,cmake,ninja-build,ccache,tar,gzip,findutils,grep,sed,git,bash,libc-bin" ;;
    python-pip) bootstrap python-pip "$codename" extract "$shell,python3-pip,libstdc++6,libnuma1,util-linux" ;;
    llama)
      if debian && [ "${ANVIL_COMPILE_LLAMA:-no}" != yes ]; then
        bootstrap llama forky extract "$shell,llama.cpp-tools"
      else
        compile_llama
        bootstrap llama "$codename" extract "$shell" --extract-hook="copy-in $CACHE/llama.cpp/build/bin/llama-server /usr/bin"
      fi ;;
    dockerhost)
      local packages=apt,python3-apt,python3,python3-docker,iptables,iproute2,procps,curl,tini,openssh-server,sudo,docker.io
      if debian; then bootstrap dockerhost trixie essential "$packages,docker-cli,docker-compose,ca-certificates"
      else bootstrap dockerhost "$codename" essential "$packages,docker-compose-v2,ca-certificates"; fi ;;
    *) die "no such root file system: $name; the first lines of bootstrap/roots.sh list the names" ;;
  esac
  mv "$CACHE/roots/.$name.$$.tar" "$CACHE/roots/$name.tar" # a rename, so that the file is always complete
}

mkdir -p "$CACHE/roots"
ensure mmdebstrap mmdebstrap
pids=()
for name in "$@"; do make_root "$name" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid"; done
