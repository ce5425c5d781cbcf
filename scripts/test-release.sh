#!/usr/bin/env bash
# Tests `make release` on a clone: what it refuses, that a dry run changes nothing, and that afterwards no file has the old version.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet . "$work/clone"
cd "$work/clone"
git config user.name test
git config user.email test@example.com
old=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
new=987.6.5
before=$(git rev-parse HEAD)

fail() {
  echo "FAILED: $1"
  cat "$work/output"
  exit 1
}

# refuses REASON VARIABLE…: `make release` fails with REASON in its output, and changes nothing.
refuses() {
  local reason=$1
  shift
  if make --no-print-directory release "$@" >"$work/output" 2>&1; then
    fail "it did not refuse: $reason"
  fi
  grep -qF "$reason" "$work/output" || fail "another reason than: $reason"
  [[ $(git rev-parse HEAD) == "$before" ]] || fail "it committed"
}

refuses "usage:" VERSION=
refuses "usage:" VERSION=1.2
echo "" >>README.md
refuses "the work tree has changes" "VERSION=$new"
git checkout --quiet README.md
git tag v1.2.3
refuses "the tag v1.2.3 exists" VERSION=1.2.3

make --no-print-directory release "VERSION=$new" DRY_RUN=1 >"$work/output" 2>&1 || fail "the dry run"
grep -qF "+version = \"$new\"" "$work/output" || fail "the dry run shows no change"
[[ -z $(git status --porcelain) && -z $(git tag --list "v$new") ]] || fail "the dry run changed something"

make --no-print-directory release "VERSION=$new" >"$work/output" 2>&1 || fail "the release"
[[ -z $(git status --porcelain) ]] || fail "it left changes"
[[ $(git rev-parse "v$new^{commit}") == "$(git rev-parse HEAD)" ]] || fail "the tag names another commit"
[[ $(git rev-parse HEAD^) == "$before" ]] || fail "it made more than one commit"
grep -q "^## \[$new\] - " CHANGELOG.md || fail "the changelog has no heading"
node scripts/release/notes.mjs "$new" >"$work/output"
grep -q "^### Added" "$work/output" || fail "the notes are empty"
cargo metadata --quiet --locked --offline --no-deps --format-version 1 >"$work/metadata"
for manifest in package.json packages/*/package.json packaging/helm/*/Chart.yaml docs/openapi.json docs/asyncapi.json; do
  grep -qF "$new" "$manifest" || fail "$manifest has another version"
done
for lock in Cargo.lock package-lock.json; do
  git diff "$before" HEAD -- "$lock" >"$work/output"
  [[ $(grep -c "^-.*$old" "$work/output") == $(grep -c '^-[^-]' "$work/output") ]] || fail "$lock changed in more than the version"
done
echo "ok: make release"
