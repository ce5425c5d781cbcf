#!/bin/sh
# Runs once, when PostgreSQL is initialised. Creates the nodes' role, which owns one database and is not a superuser.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres \
  --set=password="$(cat "${STORE_PASSWORD_FILE:-/run/secrets/store_password}")" <<'SQL'
CREATE ROLE switchboard LOGIN PASSWORD :'password';
CREATE DATABASE switchboard OWNER switchboard ENCODING 'UTF8' TEMPLATE template0;
SQL
