#!/usr/bin/env bash
# Generates the secrets of compose.yaml in ./secrets, once. Only you can enter the directory. The files in it are readable
# for all users, because each container runs as another user; Compose mounts them one by one.
set -euo pipefail
cd "$(dirname "$0")"
umask 077

if [[ -e secrets ]]; then
  echo "secrets/ exists already; it is left as it is, because the database was created with these passwords" >&2
  exit 1
fi
# Use a temporary name until all are generated, so that an interrupted run leaves no incomplete secrets/.
making=$(mktemp -d ./.secrets.XXXXXX)
trap 'rm -rf "$making"' EXIT

store=$(openssl rand -hex 24)
bus=$(openssl rand -hex 24)
openssl rand -base64 32 >"$making/auth"
openssl rand -hex 24 >"$making/postgres_password"
printf '%s\n' "$store" >"$making/store_password"
# PostgreSQL is on the internal network. Elsewhere omit sslmode, so that nodes verify the certificate.
printf 'postgres://switchboard:%s@postgres/switchboard?sslmode=disable\n' "$store" >"$making/store"
# So is NATS. Elsewhere use tls://.
printf 'nats://switchboard:%s@nats:4222?tls=off\n' "$bus" >"$making/bus"
printf 'authorization { user: switchboard, password: "%s" }\n' "$bus" >"$making/nats"
chmod 644 "$making"/*
mv "$making" secrets
