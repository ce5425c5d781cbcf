// The built code has every name in the declarations, and source maps that lead to the sources.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { SourceMap } from "node:module";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const dist = (name) => fileURLToPath(new URL(`../dist/${name}`, import.meta.url));
const text = (name) => readFile(dist(name), "utf8");

/** The declarations of the core, and the type of the second argument of `connect`. */
function declarations() {
  const options = { skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022, strict: true };
  const program = ts.createProgram([dist("index.d.ts")], options);
  const checker = program.getTypeChecker();
  const module = checker.getSymbolAtLocation(program.getSourceFile(dist("index.d.ts")));
  const exported = new Map(checker.getExportsOfModule(module).map((symbol) => [symbol.name, symbol]));
  const connect = exported.get("connect");
  const [signature] = checker.getTypeOfSymbol(connect).getCallSignatures();
  const options_ = checker.getTypeOfSymbol(signature.getParameters()[1]);
  return { checker, exported, options: options_ };
}

const names = (type) => type.getProperties().map(({ name }) => name);

/** Whether the code reads a property of this name: `options.name`, or `{ name } = options`. */
const reads = (code, name) => new RegExp(`\\.${name}\\b|[{,]${name}(:\\w+)?[,}=]`).test(code);
/** Whether the name is in the code outside of strings. */
const has = (code, name) => new RegExp(`(?<![\\w"'])${name}(?![\\w"'])`).test(code);

test("each option in the declarations is in the built code", async () => {
  const { options } = declarations();
  const wanted = names(options);
  assert.ok(wanted.includes("token") && wanted.includes("outbox"), `${wanted}`);
  for (const file of ["index.js", "switchboard.js"]) {
    const code = await text(file);
    assert.deepEqual(
      wanted.filter((name) => !reads(code, name)),
      [],
      `options that ${file} does not have`,
    );
  }
});

test("each method that an app or a storage has in the declarations is in the built code", async () => {
  const { checker, exported } = declarations();
  const code = await text("index.js");
  for (const type of ["Chat", "Conversation", "Outgoing", "OutboxStorage", "OutboxEntry", "ChatError"]) {
    const all = names(checker.getDeclaredTypeOfSymbol(exported.get(type)));
    assert.ok(all.length > 2, type);
    const own = all.filter((name) => !/^(name|stack|message|cause|__@.*)$/.test(name));
    assert.deepEqual(
      own.filter((name) => !has(code, name)),
      [],
      `of ${type}`,
    );
  }
});

test("source maps lead from the built code to the line of the source", async () => {
  const sentence = "neither a token nor a user";
  for (const file of ["index.js", "switchboard.js"]) {
    const code = await text(file);
    assert.ok(code.trimEnd().endsWith(`//# sourceMappingURL=${file}.map`));
    const before = code.slice(0, code.indexOf(sentence)).split("\n");
    const map = new SourceMap(JSON.parse(await text(`${file}.map`)));
    const { originalSource, originalLine } = map.findEntry(before.length - 1, before.at(-1).length - 1);
    const lines = (await readFile(new URL(originalSource, new URL(`../dist/${file}`, import.meta.url)), "utf8")).split(
      "\n",
    );
    assert.ok(lines[originalLine].includes(sentence), `${originalSource}:${originalLine + 1}`);
  }
});
