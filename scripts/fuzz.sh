#!/usr/bin/env bash
# Runs every fuzz target for so many seconds: 60, or what is given. After that, names of targets: only those. What a
# fuzzer finds out stays in target/fuzz; what is worth keeping is copied into fuzz/corpus by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
if ! command -v cargo-fuzz >/dev/null; then
  echo "missing: cargo-fuzz (cargo install cargo-fuzz --locked)" >&2
  exit 1
fi
targets=("$@")
if ((${#targets[@]} == 0)); then
  for home in fuzz/corpus/*/; do
    targets+=("$(basename "$home")")
  done
fi

# Coverage is what a fuzzer goes by, and asks for flags that a stable compiler has, but only shows when told to.
# The address sanitizer is for unsafe code, of which the server has none; without it they are twice as fast.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$PWD/target/fuzz
failed=()
for target in "${targets[@]}"; do
  found=target/fuzz/corpus/$target
  mkdir -p "$found"
  echo "== $target"
  # The first directory takes what is new, the second is only read.
  cargo fuzz run --sanitizer none "$target" "$found" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -timeout=20 -print_final_stats=1 || failed+=("$target")
done
for target in ${failed[@]+"${failed[@]}"}; do
  echo "FAILED: $target"
done
((${#failed[@]} == 0))
