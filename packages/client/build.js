// Builds `dist`: one file for each entry of package.json, and the declarations.

import { execFileSync } from "node:child_process";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

// Properties that only our own code uses get short names. A name here must not be in `types.ts`, in the protocol, nor on an
// object of the platform's; the tests run what is built, so they fail when one is.
const internal = [
  "me|request|call|outbox|follows|learn|listed|heard|arrived|failed|cursor|followed|summary|unknown|own|meet|resume|lost",
  "receive|refused|reads|shows|stored|tellRead|say|submit|restore|flush|changed|forget|seen|what|underWay|prepend|trim",
  "oldest|subscribed|moved|refresh|started|stopped|told|compute",
].join("|");

const common = { bundle: true, minify: true, target: "es2022", logLevel: "warning", absWorkingDir: here(".") };
const core = { ...common, mangleProps: new RegExp(`^(${internal})$`) };

await rm(here("dist"), { recursive: true, force: true });
await Promise.all([
  build({ ...core, format: "esm", entryPoints: ["src/index.ts"], outdir: "dist" }),
  build({
    ...common,
    format: "esm",
    outdir: "dist",
    external: ["react", "svelte", "vue"],
    entryPoints: ["src/react.ts", "src/svelte.ts", "src/vue.ts"],
  }),
  build({
    ...common,
    format: "esm",
    platform: "node",
    external: ["./index.js", "./ws.cjs"],
    entryPoints: ["src/node.ts"],
    outdir: "dist",
  }),
  // For Node 20, which has no WebSocket: a well-kept one, in a file that newer versions do not load.
  build({
    ...common,
    format: "cjs",
    platform: "node",
    external: ["bufferutil", "utf-8-validate"],
    entryPoints: ["src/ws.cjs"],
    outfile: "dist/ws.cjs",
  }),
]);
// A second minifier finds what the first leaves: 2.5 % of the core, packed.
const options = { module: true, compress: { passes: 3, ecma: 2022, pure_getters: true } };
const { code } = await minify(await readFile(here("dist/index.js"), "utf8"), options);
await writeFile(here("dist/index.js"), code);
// The same as a script, with `Switchboard.connect`.
const script = code.replace(/export\s*\{(.*)\};?\s*$/s, (_, names) => {
  const exported = names.split(",").map((name) => name.split(" as ").reverse().join(":"));
  return `return{${exported}}})();`;
});
await writeFile(here("dist/switchboard.js"), `"use strict";var Switchboard=(()=>{${script}\n`);
await cp(
  createRequire(import.meta.url)
    .resolve("ws/package.json")
    .replace("package.json", "LICENSE"),
  here("dist/ws.LICENSE"),
);
await cp(here("../../LICENSE"), here("LICENSE"));
execFileSync("npx", ["tsc", "--emitDeclarationOnly", "--declaration"], { cwd: here("."), stdio: "inherit" });
