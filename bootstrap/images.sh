#!/usr/bin/env bash
# images.sh [router:VERSION | llama-server:1 | edge:1 | base:1 | postgres:1 | builder:1 | aiperf:1]... : builds the images
# anvil.local/NAME that are missing or out of date.
# The base is a public image if a registry answers, else the distribution's packages.
#   ANVIL_REGISTRY=none   use no registry              ANVIL_REGISTRY=HOST[:PORT]   use this mirror instead of the public registries
#   PYTHON                a Python with pip and the docker SDK (that of the venv)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -gt 0 ] || set -- router:0.13.2 llama-server:1
PYTHON=${PYTHON:-python3}
here=$ROOT/bootstrap
recipe=$(cat "$here"/images/* "$here/roots.sh" | sha256sum | cut -c1-16) # an image with another recipe is rebuilt

is_built() { [ "$(docker image inspect -f '{{index .Config.Labels "anvil.recipe"}}' "anvil.local/$1" 2>/dev/null)" = "$recipe" ]; }

build() { # build NAME DOCKERFILE CONTEXT [docker build options...]
  local name=$1 file=$2 context=$3
  shift 3
  [[ $file == /* ]] || file=$here/images/$file
  say "building anvil.local/$name"
  docker buildx build --quiet --load --network=none --label "anvil.recipe=$recipe" "$@" \
    -t "anvil.local/$name" -f "$file" "$context" >/dev/null
}

# pull_public REFERENCE : pulls the image and prints its reference, if the Docker Engine (not this script) reaches the registry
# within 8 s; fails otherwise.
pull_public() {
  local reference=$1 digest
  digest=$(awk -v name="$1" '$1 == name { print $2 }' "$ROOT/requirements/base-images.lock")
  case ${ANVIL_REGISTRY:-} in
    none) return 1 ;;
    ?*) reference=$ANVIL_REGISTRY/${reference#*/} ;;
  esac
  [ -z "$digest" ] || reference=${reference%:*}@$digest
  "$PYTHON" -c 'import sys, docker; docker.from_env(timeout=8).images.get_registry_data(sys.argv[1])' "$reference" >/dev/null 2>&1 &&
    docker pull --quiet "$reference" >/dev/null && echo "$reference"
}

download_wheels() { # includes pip's own wheel, which installs the others: the image needs no pip
  if compgen -G "$CACHE/wheels/anvil_serving-$1-*.whl" && compgen -G "$CACHE/wheels/pip-*.whl"; then return; fi >/dev/null
  local locks=$ROOT/requirements lock=router
  [ "$1" = 0.13.2 ] || lock=router-gateway
  grep -q "^anvil-serving==$1 " "$locks/$lock.lock" || die "requirements/$lock.lock has no anvil-serving $1; see bootstrap/lock.sh"
  "$PYTHON" -m pip download -qq --disable-pip-version-check --no-deps --dest "$CACHE/wheels" --require-hashes \
    --requirement "$locks/$lock.lock" --requirement "$locks/pip.lock"
}

# build_on NAME PUBLIC ROOT [docker build options...] : builds NAME.public.Dockerfile on the public image if a registry answers,
# else NAME.Dockerfile on a root file system made of the distribution's packages.
build_on() {
  local name=$1 reference=$2 root=$3 base
  shift 3
  if base=$(pull_public "$reference"); then
    build "$name" "${name%:*}.public.Dockerfile" "$here/images" --build-arg "BASE=$base"
  else
    "$here/roots.sh" "$root"
    build "$name" "${name%:*}.Dockerfile" "$CACHE/roots" "$@"
  fi
}

build_base() { build_on base:1 docker.io/library/python:3.13-slim router; }

build_router() {
  local version=$1
  download_wheels "$version"
  is_built base:1 || build_base
  build "router:$version" router.Dockerfile "$here/images" --build-context "wheels=$CACHE/wheels" \
    --build-arg BASE=anvil.local/base:1 --build-arg "VERSION=$version"
}

# The load generator, from the Dockerfile that playbooks/measure.yml uses; the wheels are those of the base's Python.
build_aiperf() {
  local wheels=$CACHE/wheels-aiperf files=$ROOT/templates/images recipe=$recipe
  is_built base:1 || build_base
  recipe=$(cat "$files"/aiperf* | sha256sum | cut -c1-16)
  ! is_built aiperf:1 || return 0
  say "fetching the wheels of aiperf"
  "$PYTHON" -m pip download -qq --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheels" \
    --require-hashes --requirement "$ROOT/requirements/aiperf.lock" --requirement "$ROOT/requirements/pip.lock"
  build aiperf:1 "$files/aiperf.Dockerfile" "$files" --build-context "wheels=$wheels" --build-arg BASE=anvil.local/base:1
}

mkdir -p "$CACHE/wheels" "$CACHE/roots"
for name in "$@"; do
  [ "$name" = aiperf:1 ] || ! is_built "$name" || continue
  case $name in
    router:*) build_router "${name#router:}" ;;
    base:1) build_base ;;
    llama-server:1) build_on "$name" ghcr.io/ggml-org/llama.cpp:server-b9014 llama ;;
    edge:1) build_on "$name" docker.io/library/haproxy:3.0-bookworm edge ;;
    postgres:1) build_on "$name" docker.io/library/postgres:17-bookworm postgres --build-context "recipe=$here/images" ;;
    aiperf:1) build_aiperf ;;
    builder:1)
      "$here/roots.sh" builder
      build "$name" builder.Dockerfile "$CACHE/roots" ;;
    *) die "no such image: $name; the first lines of bootstrap/images.sh list the names" ;;
  esac
done
