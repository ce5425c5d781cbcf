#!/usr/bin/env bash
# `make dist-twice`: builds the last commit in two fresh clones, in directories of different names and depths, and compares the
# checksums. It compiles everything four times.
set -euo pipefail
cd "$(dirname "$0")/.."

repository=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CARGO_TARGET_DIR
for clone in "$work/first" "$work/a-directory/of-another-depth/second"; do
  git clone --quiet "$repository" "$clone"
  echo "== $clone"
  (cd "$clone" && scripts/dist.sh)
  cp "$clone/dist/SHA256SUMS" "$work/$(basename "$clone").sums"
  rm -rf "$clone/target" "$clone/node_modules"
done
diff "$work/first.sums" "$work/second.sums" && echo "ok: the checksums are the same"
