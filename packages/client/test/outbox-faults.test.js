// Faults that the outbox must survive: messages that are too long, a storage that refuses some entries, other tabs, late calls.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock, FakeServer, settle } from "./fake-socket.js";
import { awake, memory, refused, SCOPE, started, stored } from "./outbox-support.js";
import { Server, until } from "./support.js";

const LONG = "é".repeat(40_000);

test("what is longer than the server's frame fails with `too_large`, and the connection stays", async (t) => {
  const server = await Server.start(t);
  const storage = memory();
  const chat = server.connects(t, "alice", { outbox: storage });
  await chat.ready();
  const room = await chat.create({ title: "general" });
  const { seq } = await room.send("short");
  const tooLarge = (field) => ({ code: "too_large", retryable: false, field });
  const states = [];
  chat.status.subscribe(({ state }) => states.push(state));
  const sent = room.send({ text: "see", data: { long: LONG } });
  await assert.rejects(sent.acked, tooLarge("data"));
  await assert.rejects(room.send(LONG).acked, tooLarge("text"));
  await assert.rejects(room.edit(seq, LONG), tooLarge("text"));
  await assert.rejects(chat.command("rename", { conversation: room.id, title: LONG }), tooLarge("title"));
  assert.ok((await room.send("after")).seq > seq);
  assert.deepEqual([[...new Set(states)], sent.state.getSnapshot()], [["online"], "failed"]);
  assert.deepEqual(
    storage.all().map(({ state, error }) => [state, error.code]),
    [
      ["failed", "too_large"],
      ["failed", "too_large"],
    ],
  );
});

test("a message of before the first connection that is too long fails, and the others are sent", async (t) => {
  const server = new FakeServer().on("send", () => stored(1));
  const storage = memory();
  const entry = (key, text, time) => [key, { key, to: "#general", text, time }];
  storage.kept.set(SCOPE, new Map([entry("long", LONG, 1), entry("short", "hi", 2)]));
  const { chat, room } = await started(t, server, { outbox: storage, maxAge: Infinity });
  assert.deepEqual(
    server.sent("send").map(({ key }) => key),
    ["short"],
  );
  assert.deepEqual([room.outgoing("long").error.code, room.outgoing("long").error.field], ["too_large", "text"]);
  assert.equal(chat.status.getSnapshot().state, "online");
});

/** A storage that refuses long texts while `full`. */
function picky() {
  const storage = memory();
  const { put } = storage;
  storage.full = true;
  storage.put = (scope, entry) => {
    storage.broken = storage.full && entry.text.length > 10 ? new Error("no space") : undefined;
    return put(scope, entry);
  };
  storage.puts = () => storage.calls.filter(([call]) => call === "put").length;
  return storage;
}

test("a storage that refuses one entry is tried once more after each success, and reported once", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = picky();
  const { room, errors, clock } = await started(t, server, { outbox: storage });
  for (const text of ["a", "a long message", "c"]) room.send(text);
  await settle();
  assert.equal(storage.puts(), 3);
  await clock.advance(60_000);
  assert.deepEqual([storage.puts(), errors.length], [4, 1]);
  room.send("d");
  await clock.advance(60_000);
  assert.deepEqual([storage.puts(), errors.length], [6, 1]);
  storage.full = false;
  room.send("e");
  await clock.advance(60_000);
  assert.deepEqual([storage.puts(), storage.all().length, errors.length], [8, 5, 1]);
  storage.full = true;
  room.send("another long message");
  await settle();
  assert.equal(errors.length, 2, "it worked in between");
});

test("deletions that succeed do not make a storage work whose puts fail", async (t) => {
  let seq = 0;
  const server = new FakeServer().on("send", () => stored(++seq));
  const storage = memory();
  storage.put = async () => {
    throw new Error("no space");
  };
  const { room, errors } = await started(t, server, { outbox: storage });
  for (let n = 0; n < 5; n++) await room.send(`${n}`);
  await settle();
  assert.deepEqual(
    errors.map(({ code }) => code),
    ["storage"],
  );
});

test("refusals of messages that were cleared make room for the next one", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { chat, room } = await started(t, server);
  for (let n = 0; n < 32; n++) room.send(`${n}`);
  await settle();
  await chat.outbox.clear();
  room.send("after the clear");
  await settle();
  for (const { id } of server.sent("send")) server.say(refused("forbidden", { id }));
  await settle();
  assert.equal(server.sent("send").at(-1).text, "after the clear");
});

test("a message that one tab retries does not expire in another, which puts it last as well", async (t) => {
  awake(t);
  const server = new FakeServer().on("send", () => undefined);
  server.reachable = false;
  const clock = new FakeClock();
  const options = { outbox: memory(), clock, maxAge: 60_000 };
  const one = await started(t, server, options);
  const { key } = one.room.send("old");
  await settle();
  const other = await started(t, server, options);
  await clock.advance(30_000);
  one.room.send("new");
  await clock.advance(40_000);
  const there = other.room.outgoing(key);
  assert.deepEqual([one.room.outgoing(key).error.code, there.error.code], ["expired", "expired"]);
  one.room.outgoing(key).retry();
  await until(there.state, (state) => state === "pending");
  other.room.send("of the other tab");
  await settle();
  const kept = options.outbox.all().find((entry) => entry.key === key);
  assert.deepEqual([kept.state, there.state.getSnapshot()], [undefined, "pending"]);
  assert.deepEqual(
    other.chat.outbox.entries.getSnapshot().map(({ text, time }) => [text, time === kept.time]),
    [
      ["old", true],
      ["of the other tab", false],
    ],
  );
});

test("`retry()` after `close()` fails with `closed`, and leaves no timer and what is kept as it was", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memory();
  const { chat, room, clock } = await started(t, server, { outbox: storage });
  const sent = room.send("hi");
  await settle();
  chat.close();
  const before = [storage.calls.length, clock.timers];
  sent.retry();
  await assert.rejects(sent.acked, { code: "closed" });
  await settle();
  assert.deepEqual([storage.calls.length, clock.timers], before);
  assert.deepEqual([sent.state.getSnapshot(), storage.all()[0].state], ["failed", undefined]);
});

test("a message that was taken back and stored all the same is `sent`, and so is its promise", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { room } = await started(t, server);
  const sent = room.send("hi");
  await settle();
  sent.discard();
  await assert.rejects(sent.acked, { code: "discarded" });
  server.say({ type: "ok", id: server.sent("send")[0].id, ...stored(4) });
  await until(sent.state, (state) => state === "sent");
  assert.deepEqual([(await sent).seq, sent.error], [4, undefined]);
});
