// Compiles code of pages against the types of the elements.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const here = fileURLToPath(new URL("..", import.meta.url));
const strict = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--skipLibCheck"];
const module = ["--module", "esnext", "--moduleResolution", "bundler", "--jsx", "react-jsx"];

for (const name of ["plain.ts", "react.tsx", "vue.ts"]) {
  test(`test/fixtures/${name} compiles, and its mistakes do not`, async () => {
    const compile = ["tsc", "--ignoreConfig", ...strict, ...module, `test/fixtures/${name}`];
    const problems = await promisify(execFile)("npx", compile, { cwd: here }).catch(({ stdout }) => ({ stdout }));
    assert.equal(problems.stdout, "");
  });
}
