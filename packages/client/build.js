// Builds `dist`: one file for each entry of package.json, with source maps, and the declarations. Only names of local
// variables are shortened, so that stack traces are readable and add-ons find the methods that they call.

import { execFileSync } from "node:child_process";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";

const absolutePath = (path) => fileURLToPath(new URL(path, import.meta.url));

const commonOptions = {
  bundle: true,
  minify: true,
  sourcemap: "linked",
  target: "es2022",
  logLevel: "warning",
  absWorkingDir: absolutePath("."),
};

await rm(absolutePath("dist"), { recursive: true, force: true });
const [core] = await Promise.all([
  build({ ...commonOptions, format: "esm", entryPoints: ["src/index.ts"], outdir: "dist", metafile: true }),
  build({
    ...commonOptions,
    format: "esm",
    outdir: "dist",
    external: ["@switchboard/client", "react", "svelte", "vue"],
    entryPoints: ["moderation", "profiles", "react", "react-native", "server", "svelte", "testing/index", "vue"].map(
      (name) => `src/${name}.ts`,
    ),
  }),
  build({
    ...commonOptions,
    format: "esm",
    platform: "node",
    external: ["./index.js", "./ws.cjs"],
    entryPoints: ["src/node.ts"],
    outdir: "dist",
  }),
  // Bundles a WebSocket library for Node 20, which has none, in a file that newer versions do not load.
  build({
    ...commonOptions,
    sourcemap: false,
    format: "cjs",
    platform: "node",
    external: ["bufferutil", "utf-8-validate"],
    entryPoints: ["src/ws.cjs"],
    outfile: "dist/ws.cjs",
  }),
]);

// A second minifier shortens the output of the first by 2.5 % of the compressed core.
const { code, map } = await minify(await readFile(absolutePath("dist/index.js"), "utf8"), {
  module: true,
  compress: { passes: 3, ecma: 2022, pure_getters: true },
  sourceMap: {
    content: await readFile(absolutePath("dist/index.js.map"), "utf8"),
    filename: "index.js",
    url: "index.js.map",
  },
});
await writeFile(absolutePath("dist/index.js"), code);
await writeFile(absolutePath("dist/index.js.map"), map);

// The same code as a classic script with `Switchboard.connect`. The source map has a `;` for the script's additional first line.
const wrappedScript = code
  .replace(/export\s*\{([^}]*)\};?/, (_, names) => {
    const exportedProperties = names.split(",").map((name) => name.split(" as ").reverse().join(":"));
    return `return{${exportedProperties}}})();`;
  })
  .replace("index.js.map", "switchboard.js.map");
const scriptMap = JSON.parse(map);
Object.assign(scriptMap, { file: "switchboard.js", mappings: `;${scriptMap.mappings}` });
await writeFile(absolutePath("dist/switchboard.js"), `"use strict";var Switchboard=(()=>{\n${wrappedScript}\n`);
await writeFile(absolutePath("dist/switchboard.js.map"), JSON.stringify(scriptMap));

// The size of each module in the core, for `sizes.js`.
const [{ inputs }] = Object.values(core.metafile.outputs).filter(({ entryPoint }) => entryPoint);
const modules = Object.entries(inputs).map(([path, { bytesInOutput }]) => [path.replace("src/", ""), bytesInOutput]);
await writeFile(absolutePath("dist/modules.json"), JSON.stringify(Object.fromEntries(modules)));

await cp(
  createRequire(import.meta.url)
    .resolve("ws/package.json")
    .replace("package.json", "LICENSE"),
  absolutePath("dist/ws.LICENSE"),
);
await cp(absolutePath("../../LICENSE"), absolutePath("LICENSE"));
execFileSync("npx", ["tsc", "--emitDeclarationOnly", "--declaration"], { cwd: absolutePath("."), stdio: "inherit" });
