// Prints the size of each part and module of the core, and its growth since the recorded sizes. `--update` records the sizes in
// sizes.json and in the table of the README. In CI they are compared with the record of the commit on which a change is based.

import { execFileSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const absolutePath = (path) => fileURLToPath(new URL(path, import.meta.url));
const readJson = async (path) => JSON.parse(await readFile(absolutePath(path), "utf8"));

/** By how many bytes the sizes may differ from the record before it must be updated. */
const MAX_UNRECORDED_CHANGE_BYTES = 512;
const RECORD_FILE = "sizes.json";
const README_FILE = "README.md";

/** The parts: their modules, and what an app uses them for. A module that is in no part belongs to the last one. */
const DOCUMENTED_PARTS = [
  [
    "connection",
    "reconnects with jitter, obeys close codes, finds dead connections, tokens, status, `debug`",
    ["connection.ts", "connection/network.ts", "connection/retry.ts", "connection/token.ts", "address.ts", "clock.ts"],
  ],
  [
    "outbox",
    "stores each message once, keeps over a reload what is not sent, agrees between tabs",
    ["outbox.ts", "outbox/entry.ts", "outbox/tabs.ts", "indexeddb.ts", "key.ts", "well-formed.ts"],
  ],
  [
    "log and history",
    "every event once and in order, gaps, pages, edits and reactions folded in, notices",
    ["log.ts", "history.ts", "timeline.ts", "list.ts", "notices.ts", "optimistic.ts", "cursors.ts"],
  ],
  [
    "background",
    "what is not on the screen, paced: catching up, the inbox, receipts",
    ["scheduler.ts", "inbox.ts", "receipts.ts", "reading.ts", "summary.ts", "summary-state.ts"],
  ],
  ["people", "members and their cursors, presence, typing", ["members.ts", "presence.ts", "typing.ts"]],
  ["chat and conversations", "what an app calls, and what holds it together", []],
];

const modules = await readJson("dist/modules.json");
const gzip = gzipSync(await readFile(absolutePath("dist/index.js")), { level: 9 }).length;
const currentSizes = {
  gzip,
  modules: Object.fromEntries(Object.entries(modules).sort(([a], [b]) => (a < b ? -1 : 1))),
};

/** The compressed size of each part: its share of the compressed core, in proportion to its minified size. */
function sizesOfParts({ gzip, modules }) {
  const totalBytes = Object.values(modules).reduce((sum, bytes) => sum + bytes, 0) || 1;
  const namedFiles = new Set(DOCUMENTED_PARTS.flatMap(([, , files]) => files));
  return DOCUMENTED_PARTS.map(([name, use, files]) => {
    const ownModules = Object.entries(modules).filter(([file]) =>
      files.length ? files.includes(file) : !namedFiles.has(file),
    );
    return {
      name,
      use,
      bytes: Math.round((ownModules.reduce((sum, [, bytes]) => sum + bytes, 0) / totalBytes) * gzip),
    };
  });
}

/** The record of the commit on which a change is based (`--base COMMIT`, or set by CI); otherwise the one in the worktree. */
async function readRecordedSizes() {
  const baseArgument = process.argv.indexOf("--base");
  const { GITHUB_BASE_REF: branch } = process.env;
  const baseCommit = baseArgument > 0 ? process.argv[baseArgument + 1] : branch && `origin/${branch}`;
  if (!baseCommit) return await readJson(RECORD_FILE);
  const text = execFileSync("git", ["show", `${baseCommit}:./${RECORD_FILE}`], {
    cwd: absolutePath("."),
    encoding: "utf8",
  });
  return JSON.parse(text);
}

const kilobytes = (bytes) => `${(bytes / 1_024).toFixed(1)} KB`;

async function writeRecord() {
  await writeFile(absolutePath(RECORD_FILE), `${JSON.stringify(currentSizes, null, 2)}\n`);
  const rows = sizesOfParts(currentSizes).map(({ name, use, bytes }) => `| ${name} | ${kilobytes(bytes)} | ${use} |`);
  const table = ["| part | gzipped | what for |", "|---|---|---|", ...rows, `| all | ${kilobytes(gzip)} | |`].join(
    "\n",
  );
  const readme = await readFile(absolutePath(README_FILE), "utf8");
  await writeFile(
    absolutePath(README_FILE),
    readme.replace(/(<!-- sizes -->\n\n?)[^]*?(\n\n?<!-- end -->)/, `$1${table}$2`),
  );
}

const growthText = (after, before = 0) => (after === before ? "" : `${after > before ? "+" : ""}${after - before}`);
const printLine = (name, size, growth) =>
  console.log(`${name.padEnd(28)}${String(size).padStart(8)}${growth.padStart(8)}`);

const recordedSizes = await readRecordedSizes()
  .catch(() => readJson(RECORD_FILE))
  .catch(() => ({ gzip: 0, modules: {} }));
console.log("minified bytes, and the change:");
for (const name of new Set([...Object.keys(currentSizes.modules), ...Object.keys(recordedSizes.modules)])) {
  printLine(
    name,
    currentSizes.modules[name] ?? 0,
    growthText(currentSizes.modules[name] ?? 0, recordedSizes.modules[name]),
  );
}
console.log("gzipped bytes, and the change:");
const recordedSizeByPart = new Map(sizesOfParts(recordedSizes).map(({ name, bytes }) => [name, bytes]));
for (const { name, bytes } of sizesOfParts(currentSizes))
  printLine(name, bytes, growthText(bytes, recordedSizeByPart.get(name)));
printLine("the core", gzip, growthText(gzip, recordedSizes.gzip));

if (process.argv.includes("--update")) await writeRecord();
else if (Math.abs((await readJson(RECORD_FILE)).gzip - gzip) > MAX_UNRECORDED_CHANGE_BYTES) {
  console.error(`${RECORD_FILE} is old: node sizes.js --update, and commit it`);
  process.exitCode = 1;
}
