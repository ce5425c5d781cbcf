#!/usr/bin/env bash
# deb.sh BINARY VERSION DIRECTORY: writes the Debian package to DIRECTORY. SOURCE_DATE_EPOCH is the time of its files.
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=$1
# In Debian's order of versions, 1.0.0~rc.1 is before 1.0.0.
version=${2/-/\~}
directory=$(cd "$3" && pwd)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

tree=$stage/switchboard
mkdir -p "$tree"
cp -r packaging/debian "$tree/debian"
mv "$tree/debian/switchboard.toml" "$tree/"
cp packaging/prometheus/alerts.yml packaging/grafana/switchboard.json "$tree/"
install -m 755 "$binary" "$tree/switchboard"
scripts/release/completions.sh "$binary" "$tree/completions"
sed 's|/usr/local/bin/|/usr/bin/|' packaging/systemd/switchboard.service >"$tree/debian/switchboard.service"
cp packaging/systemd/switchboard.sysusers.conf "$tree/debian/switchboard.sysusers"
cp CHANGELOG.md "$tree/debian/NEWS.md"
echo debian/NEWS.md >"$tree/debian/switchboard.docs"
maintainer=$(sed -n 's/^Maintainer: //p' packaging/debian/control)
cat >"$tree/debian/changelog" <<EOF
switchboard ($version) unstable; urgency=medium

  * The changes are in NEWS.md beside this file.

 -- $maintainer  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
EOF
mkdir "$tree/debian/source"
echo '3.0 (native)' >"$tree/debian/source/format"

if ! (cd "$tree" && dpkg-buildpackage --build=binary --no-sign --no-check-builddeps) >"$stage/log" 2>&1; then
  cat "$stage/log" >&2
  exit 1
fi
cp "$stage"/switchboard_*.deb "$directory/"
