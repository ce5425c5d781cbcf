import assert from "node:assert/strict";
import { test } from "node:test";
import { initials, roomSign } from "../src/conversations/initials.js";
import { tintOf } from "../src/conversations/tint.js";
import { highlight } from "../src/text/highlight.js";
import { maskedHost } from "../src/text/link.js";

test("names that differ in one letter get different colours, and all twelve hues are used", () => {
  const users = Array.from({ length: 300 }, (_, n) => `user${n}`);
  const counts = new Map<number, number>();
  for (const user of users) counts.set(tintOf(user).hue, (counts.get(tintOf(user).hue) ?? 0) + 1);
  assert.equal(counts.size, 12);
  assert.ok(Math.max(...counts.values()) < 60, JSON.stringify([...counts]));
  assert.equal(new Set(["user1", "user2", "user3"].map((user) => tintOf(user).hue)).size, 3);
  assert.deepEqual(tintOf("@bob"), tintOf("bob"));
});

test("an avatar has two letters of a user, and the first letter or the emoji of a room", () => {
  assert.equal(initials("bob"), "BO");
  assert.equal(initials("ana.lopez"), "AL");
  assert.equal(initials("@x"), "X");
  assert.equal(roomSign("General"), "G");
  assert.equal(roomSign("🎨 Design"), "🎨");
  assert.equal(roomSign("#general"), "G");
});

test("a link whose name is another address shows the real host", () => {
  const realAddress = "https://evil.example/login";
  assert.equal(maskedHost("https://bank.example", realAddress), "evil.example");
  assert.equal(maskedHost("bank.example", realAddress), "evil.example");
  assert.equal(maskedHost("bank.example/login", realAddress), "evil.example");
  assert.equal(maskedHost("evil.example", realAddress), undefined);
  assert.equal(maskedHost("the login page", realAddress), undefined);
  assert.equal(maskedHost("https://evil.example/other", realAddress), undefined);
  // A user before the host, and letters of another script.
  assert.equal(maskedHost("https://bank.example@evil.example/", "https://bank.example@evil.example/"), "evil.example");
  assert.equal(maskedHost("https://b\u0430nk.example", "https://xn--bnk-8cd.example/"), "xn--bnk-8cd.example");
});

test("code is split into coloured tokens without a change of the text", () => {
  const sampleCode = 'const chat = connect("wss://chat.example"); // done\n\nchat.send("hi");\n';
  const tokens = highlight(sampleCode, "ts")!;
  assert.equal(tokens.map(({ value }) => value).join(""), sampleCode);
  assert.deepEqual(
    tokens.filter(({ type }) => type === "keyword").map(({ value }) => value),
    ["const"],
  );
  assert.ok(tokens.some(({ type, value }) => type === "string" && value.includes("hi")));
  assert.equal(highlight(sampleCode, "constructor"), undefined);
  assert.equal(highlight("x".repeat(30_000), "ts"), undefined);
});
