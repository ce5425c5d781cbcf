import assert from "node:assert/strict";
import { test } from "node:test";
import { withEmojiSelector, withoutEmojiSelector } from "../src/emoji/reaction.js";

test("both forms of an emoji are one reaction, shown in colour", () => {
  for (const [name, drawn] of [
    ["\u{1f44d}", "\u{1f44d}"],
    ["\u{2764}", "\u{2764}\u{fe0f}"],
    ["\u{2764}\u{200d}\u{1f525}", "\u{2764}\u{fe0f}\u{200d}\u{1f525}"],
    ["\u{261d}\u{1f3fd}", "\u{261d}\u{1f3fd}"],
    ["1\u{20e3}", "1\u{fe0f}\u{20e3}"],
    ["+1", "+1"],
  ] as const) {
    assert.equal(withoutEmojiSelector(drawn), name);
    assert.equal(withEmojiSelector(name), drawn);
    assert.equal(withEmojiSelector(drawn), drawn);
  }
  assert.equal(withoutEmojiSelector("\u{1f44d}\u{fe0f}"), "\u{1f44d}");
});
