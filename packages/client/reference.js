// Generates the reference of the SDK, docs/sdk-reference.md, from the declarations in `dist`: each name that an entry point
// exports, with its type and its comment.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = dirname(fileURLToPath(import.meta.url));
const { name, exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const DOCUMENT_HEAD = `# The SDK's reference

Made from the declarations by \`UPDATE_DOCS=1 node --test test/reference.test.js\` in \`packages/client\`; how to use it all is in
[the SDK](sdk.md). Types of the wire (\`Limits\`, \`Event\`, …) are those of [the protocol](protocol.md).
`;

/** The text of a declaration with its comment, without keywords and private members that only the compiler needs. */
function declarationText(declaration) {
  const node = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
  const start = node.jsDoc?.[0]?.pos ?? node.getStart();
  return node
    .getSourceFile()
    .text.slice(start, node.end)
    .trim()
    .replace(/^(export )?(declare )?(?=class|const|function|interface|type)/m, "")
    .replace(/^ {4}#private;\n/m, "")
    .replace(/^( +)/gm, (indent) => (indent.length % 2 ? indent : indent.slice(indent.length / 2)));
}

const isType = (symbol) => !(symbol.flags & (ts.SymbolFlags.Function | ts.SymbolFlags.Variable | ts.SymbolFlags.Class));

export function generateReference() {
  const entries = Object.entries(exports).filter(([, { types }]) => types);
  const files = entries.map(([, { types }]) => join(root, types));
  const options = { module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022, skipLibCheck: true, types: [] };
  const program = ts.createProgram(files, options);
  const checker = program.getTypeChecker();
  const documentedNames = new Set();
  const parts = [DOCUMENT_HEAD];
  for (const [n, [path]] of entries.entries()) {
    const module = checker.getSymbolAtLocation(program.getSourceFile(files[n]));
    const symbols = checker
      .getExportsOfModule(module)
      .map((symbol) => (symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol))
      .filter((symbol) => !documentedNames.has(symbol) && symbol.declarations);
    parts.push(`## \`${join(name, path)}\`\n`);
    // Functions, classes and variables come before types.
    for (const symbol of [...symbols.filter((s) => !isType(s)), ...symbols.filter(isType)]) {
      documentedNames.add(symbol);
      parts.push(`### ${symbol.name}\n`, "```ts", ...symbol.declarations.map(declarationText), "```\n");
    }
  }
  return parts.join("\n");
}
