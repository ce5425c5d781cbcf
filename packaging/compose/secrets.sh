#!/usr/bin/env bash
# Makes the secrets of compose.yaml in ./secrets, once. The directory is yours alone. The files in it can be read by
# anybody who gets to them, since each container has a user of its own: Compose mounts them one by one.
set -euo pipefail
cd "$(dirname "$0")"
umask 077

if [[ -e secrets ]]; then
  echo "secrets/ is there already; the database was made with these passwords, so they are left as they are" >&2
  exit 1
fi
# Under another name until all are made: half of them would look like all.
making=$(mktemp -d ./.secrets.XXXXXX)
trap 'rm -rf "$making"' EXIT

store=$(openssl rand -hex 24)
bus=$(openssl rand -hex 24)
openssl rand -base64 32 >"$making/auth"
openssl rand -hex 24 >"$making/postgres_password"
printf '%s\n' "$store" >"$making/store_password"
# They share a network that nobody else is on; anywhere else leave sslmode out, and the certificate is verified.
printf 'postgres://switchboard:%s@postgres/switchboard?sslmode=disable\n' "$store" >"$making/store"
# The network of this file is private to its containers, so the bus needs no TLS.
printf 'nats://switchboard:%s@nats:4222?tls=off\n' "$bus" >"$making/bus"
printf 'authorization { user: switchboard, password: "%s" }\n' "$bus" >"$making/nats"
chmod 644 "$making"/*
mv "$making" secrets
