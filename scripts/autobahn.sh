#!/usr/bin/env bash
# Runs Autobahn|Testsuite's core cases against an echo server over the framing of the real one, and compares the verdicts with
# crates/server/tests/autobahn/expected.json: none may be worse. `--write` rewrites that file. WSTEST names the suite's program
# (crossbar.io; it needs Python 2.7); without it the script skips the run.
set -euo pipefail
cd "$(dirname "$0")/.."

wstest=${WSTEST:-wstest}
# Run the program, because an existing name may be a shim for a missing one.
if ! "$wstest" --help >/dev/null 2>&1; then
  echo "skipped: Autobahn's wstest is not installed (set WSTEST, or put it into PATH)"
  exit 0
fi

cargo build --quiet --locked -p switchboard-server --features fuzzing --example echo
out=$(mktemp -d)
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
"$target/debug/examples/echo" >"$out/address" &
echo=$!
trap 'kill "$echo" 2>/dev/null || true; rm -rf "$out"' EXIT
for ((tries = 0; tries < 100; tries++)); do
  [[ -s $out/address ]] && break
  sleep 0.1
done

# Cases 12 and 13 are about compression, which is never negotiated.
cat >"$out/cases.json" <<JSON
{
  "outdir": "$out/reports",
  "servers": [{"agent": "switchboard", "url": "ws://$(cat "$out/address")"}],
  "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"],
  "exclude-cases": [],
  "exclude-agent-cases": {}
}
JSON
"$wstest" -m fuzzingclient -s "$out/cases.json" >"$out/log" 2>&1 || {
  tail -n 20 "$out/log" >&2
  exit 1
}
node scripts/autobahn.js "$out/reports/index.json" "$@"
