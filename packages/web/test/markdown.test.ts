import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "../src/text/markdown.js";
import { onlyEmoji, plain } from "../src/text/plain.js";
import type { Block, Inline } from "../src/text/tree.js";

/** Prints the tree as tags, which are easier to read in expectations. */
const inlineToText = (nodes: Inline[]): string =>
  nodes
    .map((node) => {
      switch (node.type) {
        case "text":
          return node.text;
        case "code":
          return `<code>${node.text}</code>`;
        case "break":
          return "<br>";
        case "mention":
          return `<@${node.user}>`;
        case "link":
          return `<a ${node.href}>${inlineToText(node.children)}</a>`;
        default:
          return `<${node.type}>${inlineToText(node.children)}</${node.type}>`;
      }
    })
    .join("");
const blockToText = (node: Block): string => {
  switch (node.type) {
    case "paragraph":
      return `<p>${inlineToText(node.children)}</p>`;
    case "code":
      return `<pre ${node.language}>${node.text}</pre>`;
    case "quote":
      return `<q>${node.children.map(blockToText).join("")}</q>`;
    case "list":
      return `<list ${node.start ?? "-"}>${node.items.map((item) => `<li>${inlineToText(item)}</li>`).join("")}</list>`;
  }
};
const parsedText = (text: string) => parse(text).map(blockToText).join("");

const cases: [string, string][] = [
  ["hello", "<p>hello</p>"],
  ["a\nb\n\nc", "<p>a<br>b</p><p>c</p>"],
  ["**b** *i* _i_ __b__ ~~s~~", "<p><strong>b</strong> <em>i</em> <em>i</em> <strong>b</strong> <del>s</del></p>"],
  ["***both***", "<p><strong><em>both</em></strong></p>"],
  ["**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"],
  ["**a *b** c*", "<p><strong>a *b</strong> c*</p>"],
  ["2 * 3 * 4, 2*3*4, snake_case_name", "<p>2 * 3 * 4, 2*3*4, snake_case_name</p>"],
  ["*open", "<p>*open</p>"],
  ["`a*b*c` ``a`b``", "<p><code>a*b*c</code> <code>a`b</code></p>"],
  ["`open", "<p>`open</p>"],
  ["\\*not\\* \\a", "<p>*not* \\a</p>"],
  ["see https://example.com/a_b_c.", "<p>see <a https://example.com/a_b_c>https://example.com/a_b_c</a>.</p>"],
  [
    "(https://en.wikipedia.org/wiki/A_(b))",
    "<p>(<a https://en.wikipedia.org/wiki/A_(b)>https://en.wikipedia.org/wiki/A_(b)</a>)</p>",
  ],
  ["mailto:a@b.example", "<p><a mailto:a@b.example>mailto:a@b.example</a></p>"],
  ["[**here**](https://example.com)", "<p><a https://example.com/><strong>here</strong></a></p>"],
  ["[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"],
  ["[x](data:text/html,a) javascript:alert(1)", "<p>[x](data:text/html,a) javascript:alert(1)</p>"],
  ["hi @bob, and a@b.example", "<p>hi <@bob>, and a@b.example</p>"],
  ["> a\n> b\nc", "<q><p>a<br>b</p></q><p>c</p>"],
  ["- a\n- *b*\n3. c", "<list -><li>a</li><li><em>b</em></li></list><list 3><li>c</li></list>"],
  ["```js\nlet a = `*b*`;\n\n> x\n```\nafter", "<pre js>let a = `*b*`;\n\n> x</pre><p>after</p>"],
  ["```\nnever closed", "<pre >never closed</pre>"],
  ["<img src=x onerror=alert(1)>", "<p><img src=x onerror=alert(1)></p>"],
];

for (const [text, wanted] of cases) test(JSON.stringify(text), () => assert.equal(parsedText(text), wanted));

test("nested quotes have a maximum depth", () => {
  const deeplyNested = parsedText(`${">".repeat(1000)} x`);
  assert.equal(deeplyNested.match(/<q>/g)?.length, 4);
});

test("no text makes the parser slow", () => {
  // Sixteen times the server's limit: if the parser took quadratic time, one of these texts would take minutes.
  const size = 16 * 16_384;
  const units = [
    "*",
    "* ",
    "*a ",
    "*a* ",
    "**a*",
    "_a*b~~",
    "`",
    "`a",
    "``a`",
    "[",
    "[]",
    "[](",
    "[a](",
    "[a](b)",
    "](",
    "https://",
    "https://a(",
    "https://a)",
    "mailto:",
    "h",
    "@",
    "@a",
    "> ",
    ">",
    "- ",
    "```\n",
    "\\",
    "\u202e",
    "\n",
    "a",
  ];
  for (const unit of units) {
    const text = unit.repeat(Math.ceil(size / unit.length));
    const begin = performance.now();
    parse(text);
    const millisecondsTaken = performance.now() - begin;
    assert.ok(millisecondsTaken < 5_000, `${JSON.stringify(unit)} took ${Math.round(millisecondsTaken)} ms`);
  }
});

test("10,000 asterisks are text", () => {
  assert.equal(parsedText("*".repeat(10_000)), `<p>${"*".repeat(10_000)}</p>`);
});

test("a text in one line, without markup", () => {
  assert.equal(plain("**a**\n> b\n\n```\nc\n```"), "a b c");
  assert.equal(plain("x".repeat(1000), 10), `${"x".repeat(10)}…`);
});

test("a few emoji alone are shown large", () => {
  for (const text of ["👍", "👍🏽 🎉", "👩‍💻", "🇩🇪", "❤️"]) assert.ok(onlyEmoji(text), text);
  for (const text of ["", " ", "a", "1", "👍 ok", "👍".repeat(30)]) assert.ok(!onlyEmoji(text), text);
});
