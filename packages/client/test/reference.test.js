// Tests that docs/sdk-reference.md agrees with the types of the SDK.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { generateReference } from "../reference.js";

const referenceFile = new URL("../../../docs/sdk-reference.md", import.meta.url);

test("docs/sdk-reference.md is made from the declarations; UPDATE_DOCS=1 makes it anew", async () => {
  const generated = generateReference();
  if (process.env.UPDATE_DOCS) await writeFile(referenceFile, generated);
  assert.equal(await readFile(referenceFile, "utf8"), generated);
});
