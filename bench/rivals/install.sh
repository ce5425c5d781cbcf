#!/usr/bin/env bash
# Installs the servers that `make bench-rivals` measures, at the versions in README.md: what is there already stays. On
# Debian, as somebody who may install packages.
set -euo pipefail
cd "$(dirname "$0")"

centrifugo=v6.9.1

missing=()
for tool in go npm; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if ((${#missing[@]})); then
  echo "missing: ${missing[*]} (Centrifugo is built with Go 1.26 or newer, Socket.IO and ws run on Node.js 20)" >&2
  exit 1
fi

if [[ ! -x bin/centrifugo ]]; then
  echo "== building Centrifugo $centrifugo"
  GOBIN="$PWD/bin" go install "github.com/centrifugal/centrifugo/v6@$centrifugo"
fi

if ! npm ls --prefix node >/dev/null 2>&1; then
  echo "== installing Socket.IO and ws"
  npm ci --prefix node --no-audit --no-fund
fi

if ! dpkg-query --show --showformat='${db:Status-Status}' ejabberd 2>/dev/null | grep -qx installed; then
  echo "== installing ejabberd"
  as_root=()
  if ((EUID != 0)); then
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ejabberd >/dev/null
fi
