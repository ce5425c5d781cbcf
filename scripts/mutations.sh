#!/usr/bin/env bash
# mutations.sh [PREFIX]: checks that the torture harness catches deliberate bugs. Applies each patch of crates/torture/mutations (or
# those whose names begin with PREFIX) to a copy of the tree, builds it and runs the torture on it for up to SECONDS_EACH (100).
# Fails if a bug is not caught.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-100}
seed=${SEED:-1}
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
mkdir -p "$target/mutations"
tree=$(mktemp -d "$target/mutations/tree-XXXXXX")
trap 'git worktree remove --force "$tree"' EXIT
git worktree add --quiet --detach "$tree" HEAD
# The page is compiled into the binary.
mkdir -p "$tree/packages/web"
cp -r packages/web/dist "$tree/packages/web/"

cargo build --quiet --locked --bin torture
survived=0
for patch in crates/torture/mutations/${1:-}*.patch; do
  name=$(basename "$patch" .patch)
  git -C "$tree" checkout --quiet -- .
  git -C "$tree" apply "$PWD/$patch"
  # In another target directory, so that the regular build stays unmutated.
  CARGO_TARGET_DIR="$target/mutations" cargo build --quiet --locked --bin switchboard --manifest-path "$tree/Cargo.toml" 2>"$target/mutations.log" \
    || { cat "$target/mutations.log"; exit 1; }
  begun=$(date +%s)
  status=0
  "$target/debug/torture" --binary "$target/mutations/debug/switchboard" --scratch "$target/mutations" \
    --seconds "$seconds" --seed "$seed" \
    >"$target/mutations/$name.out" 2>&1 || status=$?
  took=$(($(date +%s) - begun))
  if ((status == 1)); then
    law=$(grep -m 1 -oE '^(Lost|Doubled|OutOfOrder|SilentGap|Forbidden|SeqChanged|WentBack|Mismatch|WrongAnswer|Stuck): .{0,100}' "$target/mutations/$name.out" || true)
    echo "caught   $name after $took s: $law"
  else
    echo "SURVIVED $name ($took s, status $status)"
    survived=1
  fi
  rm -rf "$target"/mutations/torture-*
done
exit "$survived"
