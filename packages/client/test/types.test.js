// Compiles code of apps against the types of the SDK.

import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const here = fileURLToPath(new URL("..", import.meta.url));
const STRICT_OPTIONS = [
  "--strict",
  "--noEmit",
  "--target",
  "es2022",
  "--lib",
  "es2023,dom,dom.iterable",
  "--skipLibCheck",
];

for (const name of ["types", "plain-types"]) {
  for (const resolution of ["bundler", "nodenext"]) {
    test(`test/fixtures/${name}.ts compiles, and its mistakes do not (${resolution})`, async () => {
      const module = resolution === "bundler" ? "esnext" : "nodenext";
      const options = [
        ...STRICT_OPTIONS,
        "--module",
        module,
        "--moduleResolution",
        resolution,
        "--exactOptionalPropertyTypes",
      ];
      const compile = ["tsc", ...options, `test/fixtures/${name}.ts`];
      await promisify(execFile)("npx", compile, { cwd: here }).catch(({ stdout }) => {
        throw new Error(stdout);
      });
    });
  }
}
