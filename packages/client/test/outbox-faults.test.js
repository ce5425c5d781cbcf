// Faults that the outbox must survive: messages that are too long, a storage that refuses some entries, other tabs, late calls.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";
import {
  keepProcessAlive,
  memoryStorage,
  refusedAnswer,
  SCOPE,
  startOutboxChat,
  storedAnswer,
} from "./outbox-support.js";
import { Server, until } from "./support.js";

const LONG_TEXT = "é".repeat(40_000);

test("what is longer than the server's frame fails with `too_large`, and the connection stays", async (t) => {
  const server = await Server.start(t);
  const storage = memoryStorage();
  const chat = server.connects(t, "alice", { outbox: storage });
  await chat.ready();
  const room = await chat.create({ title: "general" });
  const { seq } = await room.send("short");
  const tooLargeError = (field) => ({ code: "too_large", retryable: false, field });
  const shownStates = [];
  chat.status.subscribe(({ state }) => shownStates.push(state));
  const sent = room.send({ text: "see", data: { long: LONG_TEXT } });
  await assert.rejects(sent.acked, tooLargeError("data"));
  await assert.rejects(room.send(LONG_TEXT).acked, tooLargeError("text"));
  await assert.rejects(room.edit(seq, LONG_TEXT), tooLargeError("text"));
  await assert.rejects(chat.command("rename", { conversation: room.id, title: LONG_TEXT }), tooLargeError("title"));
  assert.ok((await room.send("after")).seq > seq);
  assert.deepEqual([[...new Set(shownStates)], sent.state.getSnapshot()], [["online"], "failed"]);
  assert.deepEqual(
    storage.all().map(({ state, error }) => [state, error.code]),
    [
      ["failed", "too_large"],
      ["failed", "too_large"],
    ],
  );
});

test("a message of before the first connection that is too long fails, and the others are sent", async (t) => {
  const server = new FakeServer().on("send", () => storedAnswer(1));
  const storage = memoryStorage();
  const storedEntry = (key, text, time) => [key, { key, to: "#general", text, time }];
  storage.kept.set(SCOPE, new Map([storedEntry("long", LONG_TEXT, 1), storedEntry("short", "hi", 2)]));
  const { chat, room } = await startOutboxChat(t, server, { outbox: storage, maxAge: Infinity });
  assert.deepEqual(
    server.sent("send").map(({ key }) => key),
    ["short"],
  );
  assert.deepEqual([room.outgoing("long").error.code, room.outgoing("long").error.field], ["too_large", "text"]);
  assert.equal(chat.status.getSnapshot().state, "online");
});

/** A storage that refuses long texts while `full`. */
function selectiveStorage() {
  const storage = memoryStorage();
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
  const storage = selectiveStorage();
  const { room, errors, clock } = await startOutboxChat(t, server, { outbox: storage });
  for (const text of ["a", "a long message", "c"]) room.send(text);
  await runPendingTasks();
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
  await runPendingTasks();
  assert.equal(errors.length, 2, "it worked in between");
});

test("deletions that succeed do not make a storage work whose puts fail", async (t) => {
  let seq = 0;
  const server = new FakeServer().on("send", () => storedAnswer(++seq));
  const storage = memoryStorage();
  storage.put = async () => {
    throw new Error("no space");
  };
  const { room, errors } = await startOutboxChat(t, server, { outbox: storage });
  for (let n = 0; n < 5; n++) await room.send(`${n}`);
  await runPendingTasks();
  assert.deepEqual(
    errors.map(({ code }) => code),
    ["storage"],
  );
});

test("refusals of messages that were cleared make room for the next one", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { chat, room } = await startOutboxChat(t, server);
  for (let n = 0; n < 32; n++) room.send(`${n}`);
  await runPendingTasks();
  await chat.outbox.clear();
  room.send("after the clear");
  await runPendingTasks();
  for (const { id } of server.sent("send")) server.say(refusedAnswer("forbidden", { id }));
  await runPendingTasks();
  assert.equal(server.sent("send").at(-1).text, "after the clear");
});

test("a message that one tab retries does not expire in another, which puts it last as well", async (t) => {
  keepProcessAlive(t);
  const server = new FakeServer().on("send", () => undefined);
  server.reachable = false;
  const clock = new FakeClock();
  const options = { outbox: memoryStorage(), clock, maxAge: 60_000 };
  const firstTab = await startOutboxChat(t, server, options);
  const { key } = firstTab.room.send("old");
  await runPendingTasks();
  const secondTab = await startOutboxChat(t, server, options);
  await clock.advance(30_000);
  firstTab.room.send("new");
  await clock.advance(40_000);
  const entryInSecondTab = secondTab.room.outgoing(key);
  assert.deepEqual([firstTab.room.outgoing(key).error.code, entryInSecondTab.error.code], ["expired", "expired"]);
  firstTab.room.outgoing(key).retry();
  await until(entryInSecondTab.state, (state) => state === "pending");
  secondTab.room.send("of the other tab");
  await runPendingTasks();
  const storedEntry = options.outbox.all().find((entry) => entry.key === key);
  assert.deepEqual([storedEntry.state, entryInSecondTab.state.getSnapshot()], [undefined, "pending"]);
  assert.deepEqual(
    secondTab.chat.outbox.entries.getSnapshot().map(({ text, time }) => [text, time === storedEntry.time]),
    [
      ["old", true],
      ["of the other tab", false],
    ],
  );
});

test("`retry()` after `close()` fails with `closed`, and leaves no timer and what is kept as it was", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memoryStorage();
  const { chat, room, clock } = await startOutboxChat(t, server, { outbox: storage });
  const sent = room.send("hi");
  await runPendingTasks();
  chat.close();
  const callsAndTimersBefore = [storage.calls.length, clock.timers];
  sent.retry();
  await assert.rejects(sent.acked, { code: "closed" });
  await runPendingTasks();
  assert.deepEqual([storage.calls.length, clock.timers], callsAndTimersBefore);
  assert.deepEqual([sent.state.getSnapshot(), storage.all()[0].state], ["failed", undefined]);
});

test("a message that was taken back and stored all the same is `sent`, and so is its promise", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { room } = await startOutboxChat(t, server);
  const sent = room.send("hi");
  await runPendingTasks();
  sent.discard();
  await assert.rejects(sent.acked, { code: "discarded" });
  server.say({ type: "ok", id: server.sent("send")[0].id, ...storedAnswer(4) });
  await until(sent.state, (state) => state === "sent");
  assert.deepEqual([(await sent).seq, sent.error], [4, undefined]);
});
