#!/usr/bin/env bash
# compile.sh TARGET: compiles the release binary for a target of Rust and prints its path. Two builds of one commit with the same
# compilers are equal, in any two directories: the paths of this machine are replaced by fixed ones. packaging/docker/Dockerfile uses
# it, too.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$1
root=$PWD
mkdir -p "${CARGO_TARGET_DIR:-target}"
build=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
registry=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
commit=$(rustc --version --verbose | sed -n 's/^commit-hash: //p')

# The last prefix that fits wins.
flags=(
  "--remap-path-prefix=$root=/switchboard"
  "--remap-path-prefix=$build=/switchboard/target"
  "--remap-path-prefix=$registry=/cargo"
  "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit"
)
# Cargo's separator between flags is the byte 0x1f, so that paths may have spaces.
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037' "${flags[@]}")
export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\037'}
# For SQLite, jemalloc and ring.
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$root=/switchboard -ffile-prefix-map=$build=/switchboard/target -ffile-prefix-map=$registry=/cargo"

# musl-tools has one wrapper of gcc, for the target of the machine.
if [[ $target == *-musl ]]; then
  export "CC_${target//-/_}=musl-gcc"
fi

cargo build --release --locked --target "$target" --package switchboard-server --bin switchboard >&2
echo "$build/$target/release/switchboard"
