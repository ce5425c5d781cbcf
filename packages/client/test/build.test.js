// The built code has every name in the declarations, and source maps that lead to the sources.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { SourceMap } from "node:module";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const distPath = (name) => fileURLToPath(new URL(`../dist/${name}`, import.meta.url));
const readDist = (name) => readFile(distPath(name), "utf8");

/** The declarations of the core, and the type of the second argument of `connect`. */
function readDeclarations() {
  const options = { skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022, strict: true };
  const program = ts.createProgram([distPath("index.d.ts")], options);
  const checker = program.getTypeChecker();
  const module = checker.getSymbolAtLocation(program.getSourceFile(distPath("index.d.ts")));
  const exported = new Map(checker.getExportsOfModule(module).map((symbol) => [symbol.name, symbol]));
  const connect = exported.get("connect");
  const [signature] = checker.getTypeOfSymbol(connect).getCallSignatures();
  const options_ = checker.getTypeOfSymbol(signature.getParameters()[1]);
  return { checker, exported, options: options_ };
}

const propertyNames = (type) => type.getProperties().map(({ name }) => name);

/** Whether the code reads a property of this name: `options.name`, or `{ name } = options`. */
const readsProperty = (code, name) => new RegExp(`\\.${name}\\b|[{,]${name}(:\\w+)?[,}=]`).test(code);
/** Whether the name is in the code outside of strings. */
const hasWord = (code, name) => new RegExp(`(?<![\\w"'])${name}(?![\\w"'])`).test(code);

test("each option in the declarations is in the built code", async () => {
  const { options } = readDeclarations();
  const optionNames = propertyNames(options);
  assert.ok(optionNames.includes("token") && optionNames.includes("outbox"), `${optionNames}`);
  for (const file of ["index.js", "switchboard.js"]) {
    const code = await readDist(file);
    assert.deepEqual(
      optionNames.filter((name) => !readsProperty(code, name)),
      [],
      `options that ${file} does not have`,
    );
  }
});

test("each method that an app or a storage has in the declarations is in the built code", async () => {
  const { checker, exported } = readDeclarations();
  const code = await readDist("index.js");
  for (const type of ["Chat", "Conversation", "Outgoing", "OutboxStorage", "OutboxEntry", "ChatError"]) {
    const memberNames = propertyNames(checker.getDeclaredTypeOfSymbol(exported.get(type)));
    assert.ok(memberNames.length > 2, type);
    const ownMemberNames = memberNames.filter((name) => !/^(name|stack|message|cause|__@.*)$/.test(name));
    assert.deepEqual(
      ownMemberNames.filter((name) => !hasWord(code, name)),
      [],
      `of ${type}`,
    );
  }
});

test("source maps lead from the built code to the line of the source", async () => {
  const errorText = "neither a token nor a user";
  for (const file of ["index.js", "switchboard.js"]) {
    const code = await readDist(file);
    assert.ok(code.trimEnd().endsWith(`//# sourceMappingURL=${file}.map`));
    const linesBefore = code.slice(0, code.indexOf(errorText)).split("\n");
    const sourceMap = new SourceMap(JSON.parse(await readDist(`${file}.map`)));
    const { originalSource, originalLine } = sourceMap.findEntry(linesBefore.length - 1, linesBefore.at(-1).length - 1);
    const sourceLines = (
      await readFile(new URL(originalSource, new URL(`../dist/${file}`, import.meta.url)), "utf8")
    ).split("\n");
    assert.ok(sourceLines[originalLine].includes(errorText), `${originalSource}:${originalLine + 1}`);
  }
});
