#!/usr/bin/env bash
# images.sh [router:VERSION | llama-server:1 | edge:1 | base:1 | postgres:1 | builder:1]... : makes sure that these images are there, as
# anvil.local/NAME.
# Public images are their base where a registry answers, the distribution's packages where none does.
#   ANVIL_REGISTRY=none   never ask a registry         ANVIL_REGISTRY=HOST[:PORT]   ask this mirror instead of the usual ones
#   PYTHON                a python with pip and the docker SDK (the venv's)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -gt 0 ] || set -- router:0.13.2 llama-server:1
PYTHON=${PYTHON:-python3}
here=$ROOT/bootstrap
recipe=$(cat "$here"/images/* "$here/roots.sh" | sha256sum | cut -c1-16) # an image of an older recipe is built again

is_built() { [ "$(docker image inspect -f '{{index .Config.Labels "anvil.recipe"}}' "anvil.local/$1" 2>/dev/null)" = "$recipe" ]; }

build() { # build NAME DOCKERFILE CONTEXT [docker build options...]
  local name=$1 file=$2 context=$3
  shift 3
  say "building anvil.local/$name"
  docker buildx build --quiet --load --network=none --label "anvil.recipe=$recipe" "$@" \
    -t "anvil.local/$name" -f "$here/images/$file" "$context" >/dev/null
}

# public REFERENCE : prints what to pull if the *engine* gets an answer from that registry within seconds.
public() {
  local reference=$1
  case ${ANVIL_REGISTRY:-} in
    none) return 1 ;;
    ?*) reference=$ANVIL_REGISTRY/${reference#*/} ;;
  esac
  "$PYTHON" -c 'import sys, docker; docker.from_env(timeout=8).images.get_registry_data(sys.argv[1])' "$reference" >/dev/null 2>&1 &&
    docker pull --quiet "$reference" >/dev/null && echo "$reference"
}

download_wheels() { # the wheel of pip itself installs the others, so the image needs none
  if compgen -G "$CACHE/wheels/anvil_serving-$1-*.whl" && compgen -G "$CACHE/wheels/pip-*.whl"; then return; fi >/dev/null
  "$PYTHON" -m pip download -qq --disable-pip-version-check --no-deps --dest "$CACHE/wheels" "anvil-serving==$1" pip==26.0
}

# Python and a shell: the public image where there is one, and where not the distribution's.
build_base() {
  local base
  if base=$(public docker.io/library/python:3.13-slim); then
    build base:1 base.public.Dockerfile "$here/images" --build-arg "BASE=$base"
  else
    "$here/roots.sh" router
    build base:1 base.Dockerfile "$CACHE/roots"
  fi
}

build_router() {
  local version=$1
  download_wheels "$version"
  is_built base:1 || build_base
  build "router:$version" router.Dockerfile "$here/images" --build-context "wheels=$CACHE/wheels" \
    --build-arg BASE=anvil.local/base:1 --build-arg "VERSION=$version"
}

build_llama_server() {
  local base
  if base=$(public ghcr.io/ggml-org/llama.cpp:server-b9014); then
    build llama-server:1 llama-server.public.Dockerfile "$here/images" --build-arg "BASE=$base"
  else
    "$here/roots.sh" llama
    build llama-server:1 llama-server.Dockerfile "$CACHE/roots"
  fi
}

build_edge() {
  local base
  if base=$(public docker.io/library/haproxy:3.0-bookworm); then
    build edge:1 edge.public.Dockerfile "$here/images" --build-arg "BASE=$base"
  else
    "$here/roots.sh" edge
    build edge:1 edge.Dockerfile "$CACHE/roots"
  fi
}

build_builder() {
  "$here/roots.sh" builder
  build builder:1 builder.Dockerfile "$CACHE/roots"
}

build_postgres() {
  local base
  if base=$(public docker.io/library/postgres:17-bookworm); then
    build postgres:1 postgres.public.Dockerfile "$here/images" --build-arg "BASE=$base"
  else
    "$here/roots.sh" postgres
    build postgres:1 postgres.Dockerfile "$CACHE/roots" --build-context "recipe=$here/images"
  fi
}

mkdir -p "$CACHE/wheels" "$CACHE/roots"
for name in "$@"; do
  is_built "$name" && continue
  case $name in
    router:*) build_router "${name#router:}" ;;
    llama-server:1) build_llama_server ;;
    edge:1) build_edge ;;
    builder:1) build_builder ;;
    base:1) build_base ;;
    postgres:1) build_postgres ;;
    *) die "no such image: $name" ;;
  esac
done
