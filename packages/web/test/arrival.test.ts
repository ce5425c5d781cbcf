import assert from "node:assert/strict";
import { test } from "node:test";
import { readFragment } from "../src/app/fragment.js";
import { isExpired } from "../src/app/token.js";
import { bytesOver } from "../src/composer/length.js";
import { mentionAt, suggestedUsers } from "../src/composer/mention.js";
import { roomId, userId } from "../src/conversations/id.js";
import { peerOf } from "../src/conversations/name.js";
import { GROUPS } from "../src/emoji/emoji.js";
import { search } from "../src/emoji/search.js";

test("the fragment contains a token, a user, a conversation", () => {
  assert.deepEqual(readFragment("#token=a.b.c&conversation=%23general"), { token: "a.b.c", conversation: "#general" });
  assert.deepEqual(readFragment("#user=a+b%40c"), { user: "a+b@c" });
  assert.deepEqual(readFragment("#/c/%23general"), {});
  assert.deepEqual(readFragment("#user=%"), {});
  assert.deepEqual(readFragment(""), {});
});

test("only a token with a past `exp` counts as expired", () => {
  const token = (payload: object) => `e30.${Buffer.from(JSON.stringify(payload)).toString("base64url")}.x`;
  assert.equal(isExpired(token({ exp: 10, name: "ÿ?>" }), 10_000), true);
  assert.equal(isExpired(token({ exp: 11 }), 10_000), false);
  for (const other of [token({}), "", "a.b.c", "no token"]) assert.equal(isExpired(other, 10_000), false);
});

test("names, as people type them", () => {
  assert.equal(userId(" @bob "), "@bob");
  assert.equal(roomId("general"), "#general");
  for (const bad of ["", "@", "a b", "-a", "x".repeat(65), "ü"]) assert.equal(userId(bad), undefined, bad);
  assert.equal(peerOf("@alice:bob", "bob"), "alice");
  assert.equal(peerOf("@alice:bob", "alice"), "bob");
  assert.equal(peerOf("@bob:bob", "bob"), "bob");
  assert.equal(peerOf("#general", "bob"), undefined);
});

test("a mention is completed at the caret", () => {
  assert.deepEqual(mentionAt("hi @Bo", 6), { from: 3, wanted: "bo" });
  assert.deepEqual(mentionAt("@", 1), { from: 0, wanted: "" });
  for (const text of ["a@b", "hi bob", "@bob "]) assert.equal(mentionAt(text, text.length), undefined, text);
  assert.deepEqual(suggestedUsers(["carol", "bob", "rob"], "ob"), ["bob", "rob"]);
  assert.deepEqual(suggestedUsers(["rob", "bobby"], "bob"), ["bobby"]);
});

test("the length counts in bytes", () => {
  assert.equal(bytesOver("äa", 3), 0);
  assert.equal(bytesOver("äaa", 3), 1);
  assert.equal(bytesOver("x".repeat(99), undefined), 0);
});

test("emoji are found in both languages, each once", () => {
  assert.equal(search("rocket", "en")[0]?.char, "🚀");
  assert.equal(search("rakete", "de")[0]?.char, "🚀");
  const chars = GROUPS.flatMap(({ emoji }) => emoji.map(({ char }) => char));
  assert.equal(new Set(chars).size, chars.length);
  for (const { char, names } of GROUPS.flatMap(({ emoji }) => emoji)) assert.ok(names.en[0] && names.de[0], char);
});
