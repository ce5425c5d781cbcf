// `make release VERSION=1.2.3`: sets the version everywhere, gives CHANGELOG.md's [Unreleased] section its heading, commits and tags.
// With DRY_RUN=1 it only prints what it would change. Nothing is pushed.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const version = process.env.VERSION ?? "";
const dryRun = Boolean(process.env.DRY_RUN);
const tag = `v${version}`;
const date = new Date().toISOString().slice(0, 10);

function fail(reason) {
  console.error(reason);
  process.exit(1);
}

function run(program, ...parameters) {
  return execFileSync(program, parameters, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
}

/** Replaces the one place in a text, and fails if there is none. */
function replaceIn(path, text, pattern, replacement) {
  if (!pattern.test(text)) fail(`${path} has nothing that matches ${pattern}`);
  return text.replace(pattern, replacement);
}

/** A manifest of npm with the new version, in its dependencies on the other packages of this repository, too. */
function npmManifest(path, text) {
  const manifest = JSON.parse(text);
  if (manifest.version) manifest.version = version;
  for (const kind of ["dependencies", "devDependencies", "peerDependencies"]) {
    for (const name of Object.keys(manifest[kind] ?? {}).filter((name) => name.startsWith("@switchboard/"))) {
      manifest[kind][name] = version;
    }
  }
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

/** What to do with each file, by its path. */
const EDITS_BY_PATH = [
  [
    /^(Cargo|packages\/python\/pyproject)\.toml$/,
    (path, text) => replaceIn(path, text, /^version = ".*"$/m, `version = "${version}"`),
  ],
  [/^(.*\/)?package\.json$/, npmManifest],
  [
    /^packaging\/helm\/.*\/Chart\.yaml$/,
    (path, text) =>
      replaceIn(
        path,
        replaceIn(path, text, /^version: .*$/m, `version: ${version}`),
        /^appVersion: .*$/m,
        `appVersion: "${version}"`,
      ),
  ],
  [
    /^docs\/(openapi|asyncapi)\.json$/,
    (path, text) => replaceIn(path, text, /^( {4}"version": )".*"(,?)$/m, `$1"${version}"$2`),
  ],
  [
    /^CHANGELOG\.md$/,
    (path, text) => replaceIn(path, text, /^## \[Unreleased\]$/m, `## [Unreleased]\n\n## [${version}] - ${date}`),
  ],
];

if (!/^\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?$/.test(version)) fail("usage: make release VERSION=1.2.3 [DRY_RUN=1]");
if (run("git", "status", "--porcelain")) fail("the work tree has changes: commit them first");
if (run("git", "tag", "--list", tag)) fail(`the tag ${tag} exists`);

const trackedFiles = run("git", "ls-files").split("\n");
const textsBefore = new Map();
for (const path of trackedFiles) {
  const edit = EDITS_BY_PATH.find(([pattern]) => pattern.test(path))?.[1];
  if (!edit) continue;
  const text = readFileSync(path, "utf8");
  const newText = edit(path, text);
  if (newText !== text) {
    textsBefore.set(path, text);
    writeFileSync(path, newText);
  }
}
// The lock files have the versions of this repository's crates and packages; nothing else of them changes.
for (const path of ["Cargo.lock", "package-lock.json"]) textsBefore.set(path, readFileSync(path, "utf8"));
try {
  run("cargo", "update", "--quiet", "--workspace", "--offline");
  run("npm", "install", "--silent", "--package-lock-only", "--ignore-scripts", "--offline");
} catch (error) {
  for (const [path, text] of textsBefore) writeFileSync(path, text);
  fail(`the lock files could not be written: ${error.message}`);
}

if (dryRun) {
  console.log(run("git", "diff", "--unified=0", "--no-color"));
  for (const [path, text] of textsBefore) writeFileSync(path, text);
  console.log(`a commit "release: ${version}" and the tag ${tag} would follow`);
} else {
  run("git", "commit", "--quiet", "--all", "--message", `release: ${version}`);
  run("git", "tag", "--annotate", tag, "--message", `Switchboard ${version}`);
  console.log(`committed and tagged ${tag}; to publish it: git push --follow-tags`);
}
