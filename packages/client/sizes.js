// Prints what each module of the core takes, minified, and the core's size as it is sent, against the recorded sizes.
// `--update` records them. In CI the record is the base's: what a change adds can be read off its output.

import { execFileSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const json = async (path) => JSON.parse(await readFile(here(path), "utf8"));

/** Bytes by which the record may differ before it must be made anew. */
const STALE = 512;
const RECORD = "sizes.json";

const modules = await json("dist/modules.json");
const gzip = gzipSync(await readFile(here("dist/index.js")), { level: 9 }).length;
const now = { gzip, modules: Object.fromEntries(Object.entries(modules).sort(([a], [b]) => (a < b ? -1 : 1))) };

/** The record of the commit that a change starts from, where CI says which; otherwise the one that is checked in. */
async function recorded() {
  const base = process.env.GITHUB_BASE_REF && `origin/${process.env.GITHUB_BASE_REF}`;
  if (!base) return await json(RECORD);
  const text = execFileSync("git", ["show", `${base}:./${RECORD}`], { cwd: here("."), encoding: "utf8" });
  return JSON.parse(text);
}

if (process.argv.includes("--update")) {
  await writeFile(here(RECORD), `${JSON.stringify(now, null, 2)}\n`);
}
const before = await recorded().catch(() => ({ gzip: 0, modules: {} }));

const grown = (after, earlier = 0) => (after === earlier ? "" : `${after > earlier ? "+" : ""}${after - earlier}`);
const line = (name, size, growth) => console.log(`${name.padEnd(28)}${String(size).padStart(8)}${growth.padStart(8)}`);
for (const name of new Set([...Object.keys(now.modules), ...Object.keys(before.modules)])) {
  line(name, now.modules[name] ?? 0, grown(now.modules[name] ?? 0, before.modules[name]));
}
line("core, minified and gzipped", gzip, grown(gzip, before.gzip));

const record = await json(RECORD).catch(() => ({ gzip: 0 }));
if (Math.abs(record.gzip - gzip) > STALE) {
  console.error(`${RECORD} says ${record.gzip} bytes and it is ${gzip}: node sizes.js --update, and commit it`);
  process.exitCode = 1;
}
