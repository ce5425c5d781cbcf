#!/usr/bin/env bash
# mutations.sh [PREFIX]: checks that deliberate bugs are caught. Applies each patch of crates/torture/mutations (or those whose names
# begin with PREFIX) to a copy of the tree, and builds it. Fails if a bug is not caught.
# The torture runs on one server with the bug, for up to SECONDS_EACH (100). A bug whose name begins with "cluster-" shows only
# where several nodes share a store: the simulation runs the seeds that failed before and SEEDS (3,000) others with it, and if all of
# them hold, the torture runs on a cluster. With SEEDS=0 only the torture does. A bug whose name begins with "test-" is for the tests that
# its patch names: each of them has to fail.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-100}
seed=${SEED:-1}
seeds=${SEEDS:-3000}
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
mkdir -p "$target/mutations"
tree=$(mktemp -d "$target/mutations/tree-XXXXXX")
trap 'git worktree remove --force "$tree"' EXIT
git worktree add --quiet --detach "$tree" HEAD
# The page is compiled into the binary.
mkdir -p "$tree/packages/web"
cp -r packages/web/dist "$tree/packages/web/"

# in_tree COMMAND…: runs cargo on the tree with the bug, in another target directory, so that the regular build stays unmutated.
in_tree() {
  CARGO_TARGET_DIR="$target/mutations" cargo "$1" --quiet --locked --manifest-path "$tree/Cargo.toml" "${@:2}"
}

# build COMMAND…: builds on the tree with the bug, or exits with the log.
build() {
  in_tree "$@" 2>"$target/mutations.log" || { cat "$target/mutations.log"; exit 1; }
}

# torture NAME [cluster]: 1 if the torture breaks a law.
torture() {
  build build --bin switchboard
  begun=$(date +%s)
  "$target/debug/torture" ${2:+"$2"} --binary "$target/mutations/debug/switchboard" --scratch "$target/mutations" \
    --seconds "$seconds" --seed "$seed" >"$target/mutations/$1.out" 2>&1
}

# simulate NAME: fails if a seed breaks a law.
simulate() {
  local simulation=(test -p switchboard-server --features simulation --test simulation)
  build "${simulation[@]}" --no-run
  begun=$(date +%s)
  SEEDS=$seeds in_tree "${simulation[@]}" -- --include-ignored --nocapture seeds_that_failed_before many_seeds >"$target/mutations/$1.out" 2>&1
}

laws='^(Lost|Doubled|OutOfOrder|SilentGap|Forbidden|SeqChanged|WentBack|Mismatch|WrongAnswer|Stuck): .{0,100}|^seed [0-9]+: .{0,100}'
cargo build --quiet --locked --bin torture
survived=0
for patch in crates/torture/mutations/${1:-}*.patch; do
  name=$(basename "$patch" .patch)
  git -C "$tree" checkout --quiet -- .
  git -C "$tree" apply "$PWD/$patch"
  status=0
  begun=$(date +%s)
  case $name in
    cluster-*)
      by="the simulation"
      ((seeds == 0)) || simulate "$name" || status=1
      if ((status == 0)); then
        by="the torture of a cluster"
        torture "$name" cluster || status=$?
      fi
      ;;
    test-*)
      # The first line of the patch names the tests after a colon.
      by="its tests"
      read -ra tests < <(head -n 1 "$patch" | sed 's/.*: //')
      suite=(test --workspace --features simulation,otlp --test it)
      build "${suite[@]}" --no-run
      begun=$(date +%s)
      in_tree "${suite[@]}" -- "${tests[@]}" >"$target/mutations/$name.out" 2>&1 || status=1
      # Each of them has to fail.
      ((status == 1)) && ! grep -q "^test .* ok$" "$target/mutations/$name.out" || status=0
      ;;
    *)
      by="the torture"
      torture "$name" || status=$?
      ;;
  esac
  took=$(($(date +%s) - begun))
  law=$(grep -m 1 -oE "$laws" "$target/mutations/$name.out" || true)
  if ((status == 1)); then
    echo "caught   $name by $by after $took s: $law"
  else
    echo "SURVIVED $name ($took s, status $status)"
    survived=1
  fi
  rm -rf "$target"/mutations/torture-*
done
exit "$survived"
