#!/usr/bin/env bash
# `make dist-check`: tests the files of dist/ as their users would. The programs run, the static one in a root file system that has
# nothing else, and the image's; Debian installs, upgrades and removes the package in a root file system of its own (debootstrap, or a
# copy of DEBIAN_ROOT). It needs root, and Debian's packages of that root from the network.
set -euo pipefail
cd "$(dirname "$0")/../dist"
PATH=$PATH:/usr/sbin:$("../scripts/tools.sh" --path)
export LC_ALL=C

((EUID == 0)) || { echo "run this as root: it uses chroot" >&2 && exit 1; }
version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' ../Cargo.toml)
architecture=$(uname -m)
work=$(mktemp -d)
server=0
cleanup() {
  ((server == 0)) || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
export SWITCHBOARD_AUTH_SECRET=0123456789abcdef0123456789abcdef

fail() {
  echo "FAILED: $1" >&2
  [[ ! -s $work/log ]] || tail -n 30 "$work/log" >&2
  exit 1
}

# start COMMAND…: starts a server on a free port, waits until it listens, and sets `server` and `address`.
start() {
  local line
  rm -f "$work/stdout"
  mkfifo "$work/stdout"
  "$@" >"$work/stdout" 2>"$work/log" &
  server=$!
  read -r -t 60 line <"$work/stdout" || fail "the server does not start: $*"
  [[ $line == "listening on http://"* ]] || fail "the server prints: $line"
  address=${line#listening on http://}
}

# stop: ends the server, which must exit with 0.
stop() {
  kill -TERM "$server"
  wait "$server" || fail "the server exits with $?"
  server=0
}

# converse: the server is ready, and stores a message that a user sends to another.
converse() {
  "$program" health --listen "$address" >"$work/answer" 2>&1 || fail "the server is not ready: $(cat "$work/answer")"
  "$program" token alice >"$work/token"
  "$program" send @bob "hello" --url "ws://$address/v1/ws" --token-file "$work/token" >"$work/answer" 2>&1 ||
    fail "no message was stored: $(cat "$work/answer")"
}

sha256sum --quiet --check SHA256SUMS || fail "a checksum"
[[ $(find . -type f ! -name SHA256SUMS | wc -l) == "$(wc -l <SHA256SUMS)" ]] || fail "a file without a checksum"
echo "ok: checksums"

for libc in gnu musl; do
  name=switchboard-$version-$architecture-linux-$libc
  tar --extract --file "$name.tar.gz" --directory "$work"
  binary=$work/$name/switchboard
  [[ $("$binary" --version) == "switchboard $version" ]] || fail "the version of $name"
  for path in "$(cd .. && pwd)" "${CARGO_HOME:-$HOME/.cargo}"; do
    ! grep -qF -- "$path/" "$binary" || fail "$name contains the path $path"
  done
done
program=$work/switchboard-$version-$architecture-linux-gnu/switchboard
static=$work/switchboard-$version-$architecture-linux-musl/switchboard
newest=$(objdump --dynamic-syms "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
[[ $(printf '%s\nGLIBC_2.36\n' "$newest" | sort -V | tail -n 1) == GLIBC_2.36 ]] || fail "the program needs $newest; Debian 12 has 2.36"
start "$program" serve --listen 127.0.0.1:0 --data "$work/data"
converse
stop
"$program" check --data "$work/data" >"$work/log" 2>&1 || fail "the database"
echo "ok: the program for glibc, which needs $newest"

ldd "$static" 2>&1 | grep -qE 'statically linked|not a dynamic executable' || fail "the program is not static"
mkdir "$work/empty"
cp "$static" "$work/empty/"
start chroot "$work/empty" /switchboard serve --listen 127.0.0.1:0 --data /data
converse
stop
echo "ok: the static program in a root file system with nothing else"

mkdir "$work/image"
tar --extract --file "switchboard-$version-$architecture-image.tar.gz" --directory "$work/image" --numeric-owner --same-owner --same-permissions
[[ $(stat -c '%u:%g %a' "$work/image/data") == "65532:65532 700" ]] || fail "the owner of /data in the image"
start env SWITCHBOARD_DATA=/data chroot --userspec=65532:65532 "$work/image" /switchboard serve --listen 127.0.0.1:0
converse
env chroot --userspec=65532:65532 "$work/image" /switchboard health --listen "$address" >/dev/null || fail "the image's health check"
stop
echo "ok: the image's root file system, as its user"

for bom in "switchboard-$version.cdx.json" "switchboard-$version-npm.cdx.json"; do
  node -e '
    const bom = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
    if (bom.bomFormat !== "CycloneDX" || bom.components.length < 50) throw new Error("not the components");
    const bare = bom.components.filter(({ purl, version }) => !purl || !version);
    if (bare.length) throw new Error("without a version: " + bare.map(({ name }) => name));
  ' "$bom" 2>"$work/log" || fail "$bom"
done
grep -q '"name": "rusqlite"' "switchboard-$version.cdx.json" || fail "the SBOM without SQLite"
grep -q '"name": "svelte"' "switchboard-$version-npm.cdx.json" || fail "the SBOM without Svelte"
[[ -s UPGRADE.md && -s build.txt ]] || fail "the notes"
echo "ok: bills of materials and notes"

mkdir "$work/npm"
(cd "$work/npm" && npm install --silent --offline --no-save "$OLDPWD/switchboard-client-$version.tgz") || fail "npm install"
(cd "$work/npm" && node --input-type=module --eval '
  for (const name of ["", "/server", "/testing"]) await import("@switchboard/client" + name);
') || fail "the npm package cannot be imported"
helm lint --strict --quiet --values "../packaging/helm/switchboard/ci/least-values.yaml" "switchboard-chart-$version.tgz" \
  >"$work/log" 2>&1 || fail "the chart"
echo "ok: the npm package and the chart"

debian=$work/debian
if [[ -n ${DEBIAN_ROOT:-} ]]; then
  cp -a "$DEBIAN_ROOT" "$debian"
else
  debootstrap --variant=minbase bookworm "$debian" >"$work/log" 2>&1 || fail "debootstrap"
fi
cp switchboard_*.deb "$debian/switchboard.deb"
inside() {
  DEBIAN_FRONTEND=noninteractive chroot "$debian" "$@" >"$work/log" 2>&1
}
# Nothing of it must survive a power cut.
echo force-unsafe-io >"$debian/etc/dpkg/dpkg.cfg.d/fast"
inside apt-get update || fail "apt-get update"
inside apt-get install -y --no-install-recommends /switchboard.deb || fail "apt-get install"
inside getent passwd switchboard || fail "the package makes no user"
[[ $(stat -c '%U %a' "$debian/etc/switchboard/secret") == "root 600" ]] || fail "the secret's mode"
inside env --unset=SWITCHBOARD_AUTH_SECRET SWITCHBOARD_AUTH_SECRET_FILE=/etc/switchboard/secret \
  switchboard config check --config /etc/switchboard/switchboard.toml || fail "the package's configuration"
[[ -L $debian/etc/systemd/system/multi-user.target.wants/switchboard.service ]] || fail "the unit is not enabled"
inside systemd-analyze verify --man=no switchboard.service || fail "systemd-analyze verify"
# Debian 12's systemd has no steps between restarts, and says so.
sed -i "/Unknown key name '\(RestartSteps\|RestartMaxDelaySec\)'/d; /Unknown key '\(RestartSteps\|RestartMaxDelaySec\)'/d" "$work/log"
[[ ! -s $work/log ]] || fail "systemd-analyze verify has remarks"
secret=$(cat "$debian/etc/switchboard/secret")
echo 'listen = "127.0.0.1:9511"' >>"$debian/etc/switchboard/switchboard.toml"
inside apt-get install -y --reinstall /switchboard.deb || fail "the second installation"
[[ $(cat "$debian/etc/switchboard/secret") == "$secret" ]] || fail "an upgrade changes the secret"
grep -q 9511 "$debian/etc/switchboard/switchboard.toml" || fail "an upgrade changes the configuration"
echo "ok: the Debian package installs, and keeps the secret and the configuration"

install -d -m 700 "$debian/var/lib/switchboard"
touch "$debian/var/lib/switchboard/switchboard.db"
inside apt-get purge -y switchboard || fail "apt-get purge"
[[ ! -e $debian/etc/switchboard/secret && ! -e $debian/usr/bin/switchboard ]] || fail "a purge leaves files"
[[ -e $debian/var/lib/switchboard/switchboard.db ]] || fail "a purge deletes the messages"
echo "ok: a purge leaves only the messages"
