#!/usr/bin/env bash
# image-root.sh BINARY DIRECTORY: fills an empty directory with the root file system of the container image, for which
# packaging/docker/Dockerfile and scripts/dist.sh use it. BINARY is linked statically, so the image needs no other image below it.
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=$1
image=$2
certificates=/etc/ssl/certs/ca-certificates.crt

[[ -r $certificates ]] || { echo "missing: $certificates (Debian's ca-certificates)" >&2 && exit 1; }
if ! file -L "$binary" | grep -qE 'static-pie linked|statically linked'; then
  echo "$binary is not linked statically" >&2
  exit 1
fi

install -d -m 755 "$image" "$image/etc" "$image/etc/ssl" "$image/etc/ssl/certs"
install -m 755 "$binary" "$image/switchboard"
install -m 644 LICENSE "$image/LICENSE"
# To verify the certificates of PostgreSQL and NATS.
install -m 644 "$certificates" "$image$certificates"
printf 'root:x:0:0:root:/:/nonexistent\nswitchboard:x:65532:65532:switchboard:/data:/nonexistent\n' |
  install -m 644 /dev/stdin "$image/etc/passwd"
printf 'root:x:0:\nswitchboard:x:65532:\n' | install -m 644 /dev/stdin "$image/etc/group"
install -d -m 1777 "$image/tmp"
# Of the user 65532, which only root can set: the Dockerfile and the archive do.
install -d -m 700 "$image/data"
