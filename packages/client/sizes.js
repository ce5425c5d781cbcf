// Prints the size of each part and module of the core, and its growth since the recorded sizes. `--update` records the sizes in
// sizes.json and in the table of the README. In CI they are compared with the record of the commit on which a change is based.

import { execFileSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const json = async (path) => JSON.parse(await readFile(here(path), "utf8"));

/** By how many bytes the sizes may differ from the record before it must be updated. */
const STALE = 512;
const RECORD = "sizes.json";
const README = "README.md";

/** The parts: their modules, and what an app uses them for. A module that is in no part belongs to the last one. */
const PARTS = [
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

const modules = await json("dist/modules.json");
const gzip = gzipSync(await readFile(here("dist/index.js")), { level: 9 }).length;
const now = { gzip, modules: Object.fromEntries(Object.entries(modules).sort(([a], [b]) => (a < b ? -1 : 1))) };

/** The compressed size of each part: its share of the compressed core, in proportion to its minified size. */
function parts({ gzip, modules }) {
  const all = Object.values(modules).reduce((sum, bytes) => sum + bytes, 0) || 1;
  const named = new Set(PARTS.flatMap(([, , files]) => files));
  return PARTS.map(([name, use, files]) => {
    const own = Object.entries(modules).filter(([file]) => (files.length ? files.includes(file) : !named.has(file)));
    return { name, use, bytes: Math.round((own.reduce((sum, [, bytes]) => sum + bytes, 0) / all) * gzip) };
  });
}

/** The record of the commit on which a change is based (`--base COMMIT`, or set by CI); otherwise the one in the worktree. */
async function recorded() {
  const given = process.argv.indexOf("--base");
  const { GITHUB_BASE_REF: branch } = process.env;
  const base = given > 0 ? process.argv[given + 1] : branch && `origin/${branch}`;
  if (!base) return await json(RECORD);
  const text = execFileSync("git", ["show", `${base}:./${RECORD}`], { cwd: here("."), encoding: "utf8" });
  return JSON.parse(text);
}

const kilobytes = (bytes) => `${(bytes / 1_024).toFixed(1)} KB`;

async function record() {
  await writeFile(here(RECORD), `${JSON.stringify(now, null, 2)}\n`);
  const rows = parts(now).map(({ name, use, bytes }) => `| ${name} | ${kilobytes(bytes)} | ${use} |`);
  const table = ["| part | gzipped | what for |", "|---|---|---|", ...rows, `| all | ${kilobytes(gzip)} | |`].join(
    "\n",
  );
  const readme = await readFile(here(README), "utf8");
  await writeFile(here(README), readme.replace(/(<!-- sizes -->\n\n?)[^]*?(\n\n?<!-- end -->)/, `$1${table}$2`));
}

const grown = (after, before = 0) => (after === before ? "" : `${after > before ? "+" : ""}${after - before}`);
const line = (name, size, growth) => console.log(`${name.padEnd(28)}${String(size).padStart(8)}${growth.padStart(8)}`);

const before = await recorded()
  .catch(() => json(RECORD))
  .catch(() => ({ gzip: 0, modules: {} }));
console.log("minified bytes, and the change:");
for (const name of new Set([...Object.keys(now.modules), ...Object.keys(before.modules)])) {
  line(name, now.modules[name] ?? 0, grown(now.modules[name] ?? 0, before.modules[name]));
}
console.log("gzipped bytes, and the change:");
const earlier = new Map(parts(before).map(({ name, bytes }) => [name, bytes]));
for (const { name, bytes } of parts(now)) line(name, bytes, grown(bytes, earlier.get(name)));
line("the core", gzip, grown(gzip, before.gzip));

if (process.argv.includes("--update")) await record();
else if (Math.abs((await json(RECORD)).gzip - gzip) > STALE) {
  console.error(`${RECORD} is old: node sizes.js --update, and commit it`);
  process.exitCode = 1;
}
