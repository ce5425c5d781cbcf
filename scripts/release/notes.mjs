// notes.mjs VERSION: prints the section of CHANGELOG.md for a version, or that of [Unreleased] before its release, with how to upgrade.

import { readFileSync } from "node:fs";

const version = process.argv[2];
const changelog = readFileSync(new URL("../../CHANGELOG.md", import.meta.url), "utf8");

/** The text between a version's heading and the next one. */
function changelogSection(name) {
  const start = changelog.split("\n").findIndex((line) => line.startsWith(`## [${name}]`));
  if (start < 0) return undefined;
  const rest = changelog.split("\n").slice(start + 1);
  const end = rest.findIndex((line) => line.startsWith("## "));
  return rest
    .slice(0, end < 0 ? undefined : end)
    .join("\n")
    .trim();
}

const versionChanges = changelogSection(version) ?? changelogSection("Unreleased");
if (!versionChanges) {
  console.error(`CHANGELOG.md has no section for ${version}`);
  process.exit(1);
}
// Links to files of the repository would lead nowhere from here.
const releaseNotes = versionChanges.replace(/\[([^\]]+)\]\((?!https?:)[^)]*\)/g, "$1");
console.log(`# Switchboard ${version}

## Upgrade

1. Back up: \`switchboard backup /backup/before-upgrade.db --data DIRECTORY\`. An older version cannot open the database afterwards.
2. Try the configuration with the new program, before you stop the old one: \`switchboard config check --config FILE\`.
3. Replace the program and restart the server, or install the package, which restarts it. Clients connect again by themselves.
4. Of several nodes, upgrade one after the other, when \`/readyz\` of the one before is 200.

## Changes

${releaseNotes}`);
