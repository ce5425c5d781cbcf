#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET…]: runs every fuzz target, or only those named, for 60 or SECONDS seconds each. New inputs are in
# target/fuzz; copy the valuable ones into fuzz/corpus by hand.
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

# Coverage instrumentation needs unstable flags, which RUSTC_BOOTSTRAP enables on a stable compiler. The address sanitizer is off
# because the server has no unsafe code; without it the targets are twice as fast.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$PWD/target/fuzz
failed=()
for target in "${targets[@]}"; do
  found=target/fuzz/corpus/$target
  mkdir -p "$found"
  echo "== $target"
  # The fuzzer writes new inputs to the first directory and only reads the second.
  cargo fuzz run --sanitizer none "$target" "$found" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -timeout=20 -print_final_stats=1 || failed+=("$target")
done
for target in ${failed[@]+"${failed[@]}"}; do
  echo "FAILED: $target"
done
((${#failed[@]} == 0))
