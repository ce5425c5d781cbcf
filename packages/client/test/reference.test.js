// Tests that docs/sdk-reference.md agrees with the types of the SDK.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { reference } from "../reference.js";

const file = new URL("../../../docs/sdk-reference.md", import.meta.url);

test("docs/sdk-reference.md is made from the declarations; UPDATE_DOCS=1 makes it anew", async () => {
  const generated = reference();
  if (process.env.UPDATE_DOCS) await writeFile(file, generated);
  assert.equal(await readFile(file, "utf8"), generated);
});
