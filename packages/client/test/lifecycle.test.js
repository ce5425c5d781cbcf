// A conversation under two names, one that is released and opened again, and a chat that is closed while events come.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chatting, LogServer, settle } from "./fake-log.js";

/** A chat that learns only later whose it is: until then `@bob` and `@alice:bob` are two names. */
async function unnamed(t, server, options = {}) {
  let give;
  const token = () => new Promise((resolve) => (give = resolve));
  const chat = await chatting(t, server, { user: undefined, token, ...options });
  const name = async () => {
    give(`e.${btoa(JSON.stringify({ sub: "alice" }))}.s`);
    await chat.clock.advance(1_000);
  };
  return { ...chat, name };
}

test("a listener under one name is heard after the last subscriber under the other has gone", async (t) => {
  const server = new LogServer();
  server.fill("@alice:bob", 1);
  const { chat, clock, name } = await unnamed(t, server, { releaseAfter: 10_000 });
  const heard = [];
  chat.conversation("@alice:bob").messages.subscribe(() => {})();
  chat.conversation("@bob").on("message", ({ text }) => heard.push(text));
  await name();
  server.message("@alice:bob", "one");
  await clock.advance(15_000);
  server.message("@alice:bob", "two");
  await clock.advance(5_000);
  assert.deepEqual(heard, ["one", "two"]);
});

test("after `close()` nothing is heard any more, and no error is reported for it", async (t) => {
  const server = new LogServer({ replay: 5 });
  server.fill("#general", 1);
  const { chat, clock, errors, comeBack } = await chatting(t, server);
  const heard = [];
  chat.on("message", ({ message }) => {
    heard.push(message.seq);
    chat.close();
  });
  await clock.advance(1_000);
  await comeBack(() => server.fill("#general", 100));
  await clock.advance(1_000);
  assert.deepEqual(heard, [2], "of the page of 100");
  assert.deepEqual(errors, []);
});

test("`close()` with requests under way reports nothing", async (t) => {
  const server = new LogServer();
  server.fill("#general", 100);
  for (const type of ["history", "members", "conversations"]) server.on(type, () => undefined);
  const { chat, errors } = await chatting(t, server);
  const room = chat.conversation("#general");
  for (const store of [room.messages, room.members]) t.after(store.subscribe(() => {}));
  await settle();
  chat.close();
  await settle();
  assert.deepEqual(errors, []);
});

test("what was known of events in front of a trimmed list is forgotten, and read again with the messages", async (t) => {
  const server = new LogServer();
  server.fill("#general", 1);
  const { chat, clock } = await chatting(t, server);
  const room = chat.conversation("#general");
  t.after(room.timeline.subscribe(() => {}));
  await settle();
  server.write("#general", { type: "rename", title: "early" });
  for (let n = 0; n < 1_100; n++) server.message("#general", `${n}`);
  await clock.advance(1_000);
  const renames = () => room.timeline.getSnapshot().filter(({ kind }) => kind === "notice").length;
  const before = server.sent("sync").length;
  assert.deepEqual([renames(), room.hasOlder.getSnapshot()], [0, true]);
  while (room.hasOlder.getSnapshot()) await room.loadOlder();
  await clock.advance(10_000);
  assert.equal(renames(), 1);
  assert.ok(server.sent("sync").length > before, "the log between was read again");
});
