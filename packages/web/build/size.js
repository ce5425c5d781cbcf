// Checks sizes, as compressed with Brotli: the scripts that the page loads before the first screen, and the scripts that other
// pages load, each with what it loads at once.

import { readFile, stat } from "node:fs/promises";

const KB = 1024;
/** The launcher is all that an embedding page loads before the first click. */
const LIMITS = { "index.html": 60 * KB, "switchboard-chat.js": 72 * KB, "switchboard-launcher.js": 12 * KB };

const dist = new URL("../dist/", import.meta.url);

/** The scripts that a file loads at once: those of the page, or a script with its static imports. */
async function scriptsOf(name) {
  const text = await readFile(new URL(name, dist), "utf8").catch(() => {
    throw new Error("the page is not built: npm run build");
  });
  if (name.endsWith(".html"))
    return [...text.matchAll(/(?:src|href)="\.\/(assets\/[^"]+\.js)"/g)].map(([, path]) => path);
  const imported = [...text.matchAll(/\b(?:from|import)\s*"\.\/(assets\/[^"]+\.js)"/g)].map(([, path]) => path);
  return [name, ...imported];
}

for (const [name, limit] of Object.entries(LIMITS)) {
  const scripts = await scriptsOf(name);
  const sizes = await Promise.all(scripts.map(async (path) => (await stat(new URL(`${path}.br`, dist))).size));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  console.log(`${name}: ${total} of ${limit} bytes of script (brotli)`);
  if (!scripts.length || total > limit) process.exitCode = 1;
}
