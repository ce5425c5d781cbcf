// Checks the size, as compressed, of the scripts that the page loads before the first screen.

import { readFile, stat } from "node:fs/promises";

const MAX_BYTES = 60 * 1024;
const dist = new URL("../dist/", import.meta.url);

const page = await readFile(new URL("index.html", dist), "utf8").catch(() => {
  throw new Error("the page is not built: npm run build");
});
const scripts = [...page.matchAll(/(?:src|href)="\.\/(assets\/[^"]+\.js)"/g)].map(([, path]) => path);
let total = 0;
for (const path of scripts) {
  const { size } = await stat(new URL(`${path}.br`, dist));
  total += size;
  console.log(`${path}  ${size} bytes`);
}
console.log(`first paint: ${total} of ${MAX_BYTES} bytes of script (brotli)`);
if (!scripts.length || total > MAX_BYTES) process.exitCode = 1;
