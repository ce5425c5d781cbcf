#!/usr/bin/env bash
# Everything that CI checks. It continues after a failure, so that one run shows all of them; the last line is
# "N passed, N failed, N skipped", over the tests of Rust, the SDK, the page and the browser. A failed check without tests (the
# format, or code that does not compile) counts as one failure. Skipped may be published
# advisories, which need the public network, and what cargo-deny checks, if it is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

passed=0
failed=0
skipped=0
broken=()
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT

# require TOOL…: exits with a message if tools are missing.
require() {
  local missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  if ((${#missing[@]})); then
    echo "missing: ${missing[*]} (needed to build and test; see CONTRIBUTING.md)" >&2
    exit 1
  fi
}

# The path of a browser that the tests can drive, if there is one.
browser() {
  local name
  for name in "${CHROMIUM:-chromium}" chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" && return
  done
  return 1
}

# Whether a complete PostgreSQL is installed. Debian has a directory for each version, none of them in PATH.
postgres() {
  local program
  for program in $(type -ap postgres) /usr/lib/postgresql/*/bin/postgres; do
    [[ ! -x $program || ! -x $(dirname "$(readlink -f "$program")")/psql ]] || return 0
  done
  return 1
}

# Whether nats-server is installed. Debian has it in /usr/sbin, which is not in every PATH.
nats() {
  type -P nats-server || type -P /usr/sbin/nats-server
}

# A proxy's program. Debian has them in /usr/sbin, too.
proxy() {
  type -P "$1" || type -P "/usr/sbin/$1"
}

# PHP's process manager. Its name has the version.
php_fpm() {
  compgen -G "/usr/sbin/php-fpm*" || type -P php-fpm
}

# provide COMMAND PACKAGE ADVICE: installs a Debian package because COMMAND is missing, or exits with ADVICE.
provide() {
  local command=$1 package=$2 advice=$3 as_root=() clusters=/etc/postgresql-common/createcluster.d
  if ((EUID != 0)); then
    as_root=(sudo -n)
  fi
  if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
    echo "== installing $package"
    "${as_root[@]}" apt-get update -qq || true
    # The tests start their own PostgreSQL; without this Debian would create a cluster and run it as a service.
    if [[ $package == postgresql ]]; then
      "${as_root[@]}" install -D -m 644 /dev/stdin "$clusters/none.conf" <<<"create_main_cluster = false"
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "$package" >/dev/null || true
    "${as_root[@]}" rm -f "$clusters/none.conf"
  fi
  if ! $command >/dev/null; then
    echo "missing: $package ($advice)" >&2
    exit 1
  fi
}

# for_php COMMAND PACKAGE: installs a Debian package for the tests of the PHP package if COMMAND fails.
for_php() {
  $1 >/dev/null 2>&1 || provide "$1" "$2" "the PHP package is tested with it"
}

# total SCRIPT FILE: the sum of the numbers that a sed script finds in a file.
total() {
  sed -n "$1" "$2" | awk '{ sum += $1 } END { print sum + 0 }'
}

# check TITLE PASSED FAILED COMMAND…: runs a check. PASSED and FAILED are sed scripts that find the numbers of passed and
# failed tests in its output, empty for a check without tests.
check() {
  local title=$1 find_passed=$2 find_failed=$3 good=0 bad=0 status=0
  shift 3
  echo
  echo "== $title"
  "$@" 2>&1 | tee "$log/output" || status=$?
  if [[ -n $find_passed ]]; then
    good=$(total "$find_passed" "$log/output")
    bad=$(total "$find_failed" "$log/output")
  fi
  if ((status != 0)); then
    broken+=("$title")
    grep -vE '^ +(Compiling|Downloaded|Fresh) |^test .* ok$|✔' "$log/output" | tail -n 60 >"$log/broken.${#broken[@]}" || true
    ((bad > 0)) || bad=1
  fi
  skipped=$((skipped + $(grep -c '^skipped: ' "$log/output" || true)))
  passed=$((passed + good))
  failed=$((failed + bad))
}

# in_node ARGUMENTS…: runs tests of Node's test runner in npm workspaces.
in_node() {
  local target
  target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
  SWITCHBOARD_BINARY="$target/debug/switchboard" CHROMIUM=$(browser) \
    npm test --silent "$@"
}

# The package for PHP: its manifest, its style, and its tests, among them php-fpm behind nginx, Symfony and Laravel.
php_package() {
  local target
  target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
  (
    cd packages/php
    export SWITCHBOARD_BINARY="$target/debug/switchboard" PYTHON="$target/python/bin/python"
    COMPOSER_ALLOW_SUPERUSER=1 composer validate --quiet --strict && phpcs -q && phpunit --testdox
  )
}

# The package for Python: its types and its tests.
python_package() {
  local target
  target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
  (
    cd packages/python
    export SWITCHBOARD_BINARY="$target/debug/switchboard" PYTHONPATH=src PYTHONDONTWRITEBYTECODE=1
    "$target/python/bin/mypy" && "$target/python/bin/python" -W error -m unittest -v
  )
}

# Python's packages for the tests, in a directory of their own.
python_tools() {
  local directory=${CARGO_TARGET_DIR:-target}/python
  [[ -x $directory/bin/python ]] || python3 -m venv "$directory"
  "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement packages/python/requirements-test.txt
}

# Licences, sources and bans of the dependencies. Compiling cargo-deny would take two of the minutes that CI has.
dependencies() {
  if ! command -v cargo-deny >/dev/null; then
    echo "skipped: cargo-deny is not installed (scripts/tools.sh cargo-deny)"
    return
  fi
  cargo deny --log-level error check licenses bans sources
}

# Known vulnerabilities, by published advisories. An unreachable database is not a failure.
advisories() {
  local report status=0
  if ! command -v cargo-deny >/dev/null; then
    echo "skipped: the advisories of RustSec need cargo-deny"
  elif ! timeout 120 cargo deny fetch db >/dev/null 2>&1; then
    echo "skipped: the advisories of RustSec cannot be reached"
  else
    cargo deny --log-level error check --disable-fetch advisories || status=$?
  fi
  report=$(timeout 120 npm audit --omit=dev --json 2>/dev/null) || true
  if [[ $report != *'"auditReportVersion"'* ]]; then
    echo "skipped: the registry answers no npm audit"
  else
    npm audit --omit=dev || status=$?
  fi
  return "$status"
}

# Every fault, on the debug build: a minute on one node, and beside it 20 s on three nodes with PostgreSQL, a standby and
# NATS. Each prints its seed; the output of the one node follows that of the cluster.
torture() {
  local target=${CARGO_TARGET_DIR:-target} one_node status=0
  "$target/debug/torture" --seconds 60 --rate 300 --scratch "$target" >"$log/one-node" 2>&1 &
  one_node=$!
  "$target/debug/torture" cluster --seconds 20 --scratch "$target" || status=$?
  wait "$one_node" || status=$?
  cat "$log/one-node"
  return "$status"
}

# The tests of the protocol again, with every server a node on PostgreSQL and NATS. Without tests that read SQLite's files.
on_postgres() {
  local subjects=(messages:: rooms:: resume:: routing:: cursors:: presence:: frames:: http:: libraries:: limits:: auth::
    hostile::identity hostile::input hostile::removal hostile::revocation hostile::slow hostile::texts)
  # Only the server has tests of these names. Another selection of packages would compile everything again, with fewer features.
  TEST_STORE=postgres cargo test --workspace --features simulation,otlp --locked --test it -- "${subjects[@]}" \
    --skip a_deleted_text_is_in_no_file_of_the_database
}

# What the installation of the linters printed, and whether it succeeded.
linters_installed() {
  cat "$log/linters"
  return "$linters_status"
}

# The patches of `make mutations` still apply.
mutations_apply() {
  git apply --check crates/torture/mutations/*.patch
}

# Where Debian has libraries for PHP.
php_libraries=/usr/share/php

require cargo node npm make git openssl python3
browser >/dev/null || provide browser chromium "install it, or set CHROMIUM to the path of a Chromium or Chrome"
firefox="command -v ${FIREFOX:-firefox-esr}"
$firefox >/dev/null || provide "$firefox" firefox-esr "install it, or set FIREFOX to the path of a Firefox"
webkit="command -v ${WEBKIT_DRIVER:-WebKitWebDriver}"
$webkit >/dev/null || provide "$webkit" webkit2gtk-driver "install it, or set WEBKIT_DRIVER to the path of its driver"
command -v Xvfb >/dev/null || provide "command -v Xvfb" xvfb "WebKit needs a display for its tests"
for_php "command -v php" php-cli
for_php "php --re curl" php-curl
for_php "command -v composer" composer
for_php "command -v phpcs" php-codesniffer
for_php "command -v phpunit" phpunit
for_php php_fpm php-fpm
for_php "ls $php_libraries/Symfony/Component/HttpFoundation" php-symfony-http-foundation
for_php "ls $php_libraries/Illuminate/Routing" php-laravel-framework
python3 -m ensurepip --version >/dev/null 2>&1 ||
  provide "python3 -m ensurepip --version" python3-venv "the Python package is tested with it"
postgres >/dev/null || provide postgres postgresql "install PostgreSQL: the tests start their own"
nats >/dev/null || provide nats nats-server "install it: the tests start their own"
{ command -v prometheus && command -v promtool; } >/dev/null ||
  provide "command -v promtool" prometheus "the alerts are tested with it"
command -v systemd-analyze >/dev/null ||
  provide "command -v systemd-analyze" systemd "the unit is verified with it"
proxy haproxy >/dev/null || provide "proxy haproxy" haproxy "the examples of packaging/proxy are tested with it"
proxy nginx >/dev/null || provide "proxy nginx" nginx-light "the examples of packaging/proxy are tested with it"

PATH=$PATH:$(scripts/tools.sh --path)
node_passed='s/^.*ℹ pass \([0-9]*\).*$/\1/p'
node_failed='s/^.*ℹ \(fail\|cancelled\) \([0-9]*\).*$/\2/p'

# The workspaces whose tests need no browser, as arguments for npm. New ones are included automatically.
without_browser=()
for manifest in packages/*/package.json examples/*/package.json; do
  [[ ! -f $manifest ]] || without_browser+=("--workspace=${manifest%/package.json}")
done

check "ACME server" "" "" scripts/tools.sh pebble pebble-challtestsrv
# Clippy compiles what it checks. As the compiler of this workspace's crates it makes one build of two, which `make lint` and the
# tests would need. CLIPPY_ARGS is how cargo-clippy passes `-D warnings`. If the code breaks a rule, it is built without the rules.
export RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__

# The page before all that follows, because it is compiled into the binary.
check "the page" "" "" make page
check "format" "" "" cargo fmt --all --check
check "lint and build" "" "" cargo test --workspace --features simulation,otlp --locked --no-run
if [[ " ${broken[*]-} " == *" lint and build "* ]]; then
  unset RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS
fi
check "format of JavaScript" "" "" npm run format:check --silent
check "lint of JavaScript" "" "" npm run lint --silent
check "mutations apply" "" "" mutations_apply
check "release" "" "" scripts/test-release.sh
check "Rust tests" 's/^test result: .* \([0-9]*\) passed;.*/\1/p' 's/^test result: .* \([0-9]*\) failed;.*/\1/p' \
  cargo test --workspace --features simulation,otlp --locked --no-fail-fast
# The linters are installed beside tests that leave the processors idle.
nice -n 19 scripts/tools.sh caddy helm check-jsonschema kubernetes-validate >"$log/linters" 2>&1 &
linters=$!
check "on PostgreSQL and NATS" 's/^test result: .* \([0-9]*\) passed;.*/\1/p' 's/^test result: .* \([0-9]*\) failed;.*/\1/p' \
  on_postgres
check "torture" "" "" torture
check "types and sizes" "" "" npm run check --silent --workspaces --if-present
check "SDK and page tests" "$node_passed" "$node_failed" in_node --if-present "${without_browser[@]}"
check "tools for Python" "" "" python_tools
check "PHP" 's/^ ✔ .*/1/p' 's/^ ✘ .*/1/p' php_package
check "Python" 's/^.* \.\.\. ok$/1/p' 's/^.* \.\.\. \(FAIL\|ERROR\)$/1/p' python_package
linters_status=0
wait "$linters" || linters_status=$?
check "linters" "" "" linters_installed
check "dependencies" "" "" dependencies
check "advisories" "" "" advisories
check "deployment files" "" "" scripts/lint-deploy.sh
# These tests also run each example, and the alerts on a real Prometheus.
check "browser tests" "$node_passed" "$node_failed" in_node -w e2e

# Print the end of each failed check's output again, because some CI systems keep only the last lines of a long run.
echo
for index in ${broken[@]+"${!broken[@]}"}; do
  echo "== FAILED: ${broken[index]}"
  cat "$log/broken.$((index + 1))"
done
for title in ${broken[@]+"${broken[@]}"}; do
  echo "FAILED: $title"
done
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
