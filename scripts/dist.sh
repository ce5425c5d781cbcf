#!/usr/bin/env bash
# `make dist`: builds everything that a release has, into dist/. Two runs on one commit, in any two directories, make the same bytes if
# the compilers are the same; the file build.txt has their versions. It needs the tools of CONTRIBUTING.md, "A release".
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
export LC_ALL=C TZ=UTC
umask 022

for tool in cargo dh dpkg-buildpackage file git musl-gcc node npm rustup; do
  command -v "$tool" >/dev/null || { echo "missing: $tool (see CONTRIBUTING.md, A release)" >&2 && exit 1; }
done
if [[ -n $(git status --porcelain) ]]; then
  echo "the work tree has changes: a release is built from a commit" >&2
  exit 1
fi
scripts/tools.sh cargo-cyclonedx
PATH=$PATH:$(scripts/tools.sh --path)

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
architecture=$(uname -m)
out=$root/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir "$out"

# archive FILE DIRECTORY NAME…: a compressed archive with nothing of this machine in it: no users, no times, names in order.
archive() {
  local file=$1 directory=$2
  shift 2
  tar --create --directory "$directory" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
    --owner=0 --group=0 --numeric-owner "$@" | gzip --no-name -9 >"$file"
}

# sbom FILE: normalises the document of standard input.
sbom() {
  node scripts/release/sbom.mjs "$root" >"$1"
}

echo "== the page and the SDK"
# Fresh, because make compares times only.
rm -rf packages/client/dist packages/web/dist
make --no-print-directory page >"$work/log" 2>&1 || { cat "$work/log" >&2 && exit 1; }

declare -A binaries
for libc in gnu musl; do
  echo "== the program for $architecture-unknown-linux-$libc"
  rustup target add "$architecture-unknown-linux-$libc" >"$work/log" 2>&1 || { cat "$work/log" >&2 && exit 1; }
  binaries[$libc]=$(scripts/release/compile.sh "$architecture-unknown-linux-$libc")
  name=switchboard-$version-$architecture-linux-$libc
  mkdir "$work/$name"
  install -m 755 "${binaries[$libc]}" "$work/$name/switchboard"
  install -m 644 LICENSE CHANGELOG.md packaging/systemd/switchboard.service packaging/systemd/switchboard.sysusers.conf "$work/$name/"
  scripts/release/completions.sh "${binaries[$libc]}" "$work/$name/completions"
  archive "$out/$name.tar.gz" "$work" "$name"
done

echo "== the Debian package"
scripts/release/deb.sh "${binaries[gnu]}" "$version" "$out"

echo "== the image's root file system"
scripts/release/image-root.sh "${binaries[musl]}" "$work/image"
image=$work/image.tar
# The directory of the data is the user's, everything else root's.
tar --create --file "$image" --directory "$work/image" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
  --owner=0 --group=0 --numeric-owner --exclude=./data .
tar --append --file "$image" --directory "$work/image" --format=gnu --mtime="@$SOURCE_DATE_EPOCH" \
  --owner=65532 --group=65532 --numeric-owner ./data
gzip --no-name -9 <"$image" >"$out/switchboard-$version-$architecture-image.tar.gz"

echo "== the chart"
archive "$out/switchboard-chart-$version.tgz" packaging/helm switchboard

echo "== the npm packages"
for manifest in packages/*/package.json; do
  if [[ $(node -p "require('./$manifest').private === true") == false ]]; then
    npm pack --silent --ignore-scripts --pack-destination "$out" --workspace "${manifest%/package.json}" >/dev/null
  fi
done

echo "== the bills of materials"
# It writes a document beside the manifest of each crate.
cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$architecture-unknown-linux-gnu" \
  --manifest-path crates/server/Cargo.toml --override-filename release-sbom
sbom "$out/switchboard-$version.cdx.json" <crates/server/release-sbom.json
rm -f crates/*/release-sbom.json
# What is compiled into the page and the SDK are development dependencies of npm.
npm sbom --sbom-format cyclonedx --package-lock-only --workspace packages/client --workspace packages/web |
  sbom "$out/switchboard-$version-npm.cdx.json"

node scripts/release/notes.mjs "$version" >"$out/UPGRADE.md"
{
  echo "commit: $(git rev-parse HEAD)"
  echo "SOURCE_DATE_EPOCH: $SOURCE_DATE_EPOCH"
  rustc --version
  cargo --version
  gcc --version | head -n 1
  ld --version | head -n 1
  echo "node $(node --version), npm $(npm --version)"
  dpkg-query --show --showformat '${Package} ${Version}\n' ca-certificates debhelper dpkg-dev libc6-dev musl-tools
} >"$out/build.txt"
(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" SHA256SUMS)
cat "$out/SHA256SUMS"
