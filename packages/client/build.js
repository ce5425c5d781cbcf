// Builds `dist`: one file for each entry of package.json, and the declarations.

import { execFileSync } from "node:child_process";
import { cp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const common = { bundle: true, minify: true, target: "es2022", sourcemap: true, logLevel: "warning", absWorkingDir: here(".") };

await rm(here("dist"), { recursive: true, force: true });
await Promise.all([
  build({ ...common, format: "esm", entryPoints: ["src/index.ts"], outdir: "dist" }),
  build({
    ...common, format: "esm", outdir: "dist", external: ["react", "svelte", "vue"],
    entryPoints: ["src/react.ts", "src/svelte.ts", "src/vue.ts"],
  }),
  build({ ...common, format: "iife", globalName: "Switchboard", entryPoints: ["src/index.ts"], outfile: "dist/switchboard.js" }),
  build({ ...common, format: "esm", platform: "node", external: ["./index.js", "./ws.cjs"], entryPoints: ["src/node.ts"], outdir: "dist" }),
  // For Node 20, which has no WebSocket: a well-kept one, in a file that newer versions do not load.
  build({
    ...common, format: "cjs", platform: "node", sourcemap: false, legalComments: "eof",
    external: ["bufferutil", "utf-8-validate"], entryPoints: ["src/ws.cjs"], outfile: "dist/ws.cjs",
  }),
]);
await cp(createRequire(import.meta.url).resolve("ws/package.json").replace("package.json", "LICENSE"), here("dist/ws.LICENSE"));
await cp(here("../../LICENSE"), here("LICENSE"));
execFileSync("npx", ["tsc", "--emitDeclarationOnly", "--declaration"], { cwd: here("."), stdio: "inherit" });
