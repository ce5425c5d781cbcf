// Tests of a conversation with two names, of a released one that is opened again, and of closing a chat as events arrive.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startChat, LogServer, runPendingTasks } from "./fake-log.js";

/** A chat whose user is unknown at first: until it is known, `@bob` and `@alice:bob` are two conversations. */
async function startChatWithoutUser(t, server, options = {}) {
  let resolveToken;
  const token = () => new Promise((resolve) => (resolveToken = resolve));
  const chat = await startChat(t, server, { user: undefined, token, ...options });
  const learnUserName = async () => {
    resolveToken(`e.${btoa(JSON.stringify({ sub: "alice" }))}.s`);
    await chat.clock.advance(1_000);
  };
  return { ...chat, name: learnUserName };
}

test("a listener under one name is heard after the last subscriber under the other has gone", async (t) => {
  const server = new LogServer();
  server.fill("@alice:bob", 1);
  const { chat, clock, name } = await startChatWithoutUser(t, server, { releaseAfter: 10_000 });
  const heardEvents = [];
  chat.conversation("@alice:bob").messages.subscribe(() => {})();
  chat.conversation("@bob").on("message", ({ text }) => heardEvents.push(text));
  await name();
  server.message("@alice:bob", "one");
  await clock.advance(15_000);
  server.message("@alice:bob", "two");
  await clock.advance(5_000);
  assert.deepEqual(heardEvents, ["one", "two"]);
});

test("after `close()` nothing is heard any more, and no error is reported for it", async (t) => {
  const server = new LogServer({ replay: 5 });
  server.fill("#general", 1);
  const { chat, clock, errors, comeBack } = await startChat(t, server);
  const heardEvents = [];
  chat.on("message", ({ message }) => {
    heardEvents.push(message.seq);
    chat.close();
  });
  await clock.advance(1_000);
  await comeBack(() => server.fill("#general", 100));
  await clock.advance(1_000);
  assert.deepEqual(heardEvents, [2], "of the page of 100");
  assert.deepEqual(errors, []);
});

test("`close()` with requests under way reports nothing", async (t) => {
  const server = new LogServer();
  server.fill("#general", 100);
  for (const type of ["history", "members", "conversations"]) server.on(type, () => undefined);
  const { chat, errors } = await startChat(t, server);
  const room = chat.conversation("#general");
  for (const store of [room.messages, room.members]) t.after(store.subscribe(() => {}));
  await runPendingTasks();
  chat.close();
  await runPendingTasks();
  assert.deepEqual(errors, []);
});

test("what was known of events in front of a trimmed list is forgotten, and read again with the messages", async (t) => {
  const server = new LogServer();
  server.fill("#general", 1);
  const { chat, clock } = await startChat(t, server);
  const room = chat.conversation("#general");
  t.after(room.timeline.subscribe(() => {}));
  await runPendingTasks();
  server.write("#general", { type: "rename", title: "early" });
  for (let n = 0; n < 1_100; n++) server.message("#general", `${n}`);
  await clock.advance(1_000);
  const renameNoticeCount = () => room.timeline.getSnapshot().filter(({ kind }) => kind === "notice").length;
  const syncCountBefore = server.sent("sync").length;
  assert.deepEqual([renameNoticeCount(), room.hasOlder.getSnapshot()], [0, true]);
  while (room.hasOlder.getSnapshot()) await room.loadOlder();
  await clock.advance(10_000);
  assert.equal(renameNoticeCount(), 1);
  assert.ok(server.sent("sync").length > syncCountBefore, "the log between was read again");
});

test("a listener that an earlier one takes off is not called any more", async (t) => {
  const server = new LogServer();
  server.fill("#general", 1);
  const { chat, clock } = await startChat(t, server);
  const room = chat.conversation("#general");
  const heardEvents = [];
  room.on("message", () => {
    heardEvents.push("first");
    unsubscribe();
  });
  const unsubscribe = room.on("message", () => heardEvents.push("second"));
  await clock.advance(100);
  server.message("#general", "one");
  await runPendingTasks();
  assert.deepEqual(heardEvents, ["first"]);
});

test("members under another name load more, and say whether they are complete", async (t) => {
  const server = new LogServer();
  server.fill("@alice:bob", 1);
  const allMembers = Array.from({ length: 1_300 }, (_, n) => ({
    user: `u${String(n).padStart(4, "0")}`,
    role: "member",
    read: 0,
    received: 0,
  }));
  server.on("members", ({ conversation, after = "", limit }) => {
    const membersAfter = allMembers.filter(({ user }) => user > after);
    return { conversation, members: membersAfter.slice(0, limit), more: membersAfter.length > limit };
  });
  const { chat, clock, name } = await startChatWithoutUser(t, server);
  chat.conversation("@alice:bob");
  const { members } = chat.conversation("@bob");
  t.after(members.subscribe(() => {}));
  await name();
  await clock.advance(2_000);
  assert.deepEqual([members.getSnapshot().length, members.complete], [1_000, false]);
  while (!members.complete) {
    const loadOfMembers = members.loadMore();
    await clock.advance(1_000);
    assert.equal(await loadOfMembers, true);
  }
  await runPendingTasks();
  assert.equal(members.getSnapshot().length, 1_300);
});

test("a list that was released and opened again loads earlier messages, while an answer of before is late", async (t) => {
  const server = new LogServer();
  server.fill("#general", 300);
  const { chat } = await startChat(t, server);
  const room = chat.conversation("#general");
  room.messages.subscribe(() => {})();
  await runPendingTasks();
  let lateEvent;
  server.on("history", (frame, socket) => {
    const historyPage = server.history(frame);
    if (!frame.before || lateEvent) return historyPage;
    lateEvent = () => socket.say({ type: "ok", id: frame.id, ...historyPage });
  });
  const loadBeforeReset = room.loadOlder();
  await runPendingTasks();
  room.release();
  t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  assert.equal(await room.loadOlder(), true);
  lateEvent();
  assert.equal(await loadBeforeReset, false);
  assert.equal(room.messages.getSnapshot().length, 100);
});

test("a private room that one has left, or was removed from is `missing`, a public one `joinable`, and one that was deleted `ended`", async (t) => {
  const server = new LogServer();
  for (const id of ["#left", "#removed", "#public", "#deleted"]) server.fill(id, 3);
  const { summary } = server;
  server.summary = (id) => ({ ...summary.call(server, id), public: id === "#public" });
  const { chat, clock } = await startChat(t, server);
  const rooms = ["#left", "#removed", "#public", "#deleted"].map((id) => chat.conversation(id));
  for (const room of rooms) t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  await rooms[0].leave();
  server.write("#removed", { type: "remove", from: "bob", user: "alice" });
  await rooms[2].leave();
  server.write("#deleted", { type: "end", from: "bob" });
  await clock.advance(3_000);
  assert.deepEqual(
    rooms.map((room) => room.state.getSnapshot()),
    ["missing", "missing", "joinable", "ended"],
  );
});

test("a private room leaves the list with the answer to `leave`, also where events before it never come", async (t) => {
  const server = new LogServer();
  server.fill("#private", 3);
  server.fill("#other", 1);
  const { summary } = server;
  server.summary = (id) => ({ ...summary.call(server, id), public: false });
  const { chat, clock } = await startChat(t, server);
  const room = chat.conversation("#private");
  t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  // The message is stored before the user leaves. After that, the server refuses pages of the log, and pushes no message.
  const lateEvent = server.store("#private", { type: "message", key: "late", text: "late" });
  let refusals = 0;
  server.on("sync", () => {
    refusals++;
    return { type: "error", code: "not_found", message: "not there", retryable: false };
  });
  const listedIds = () => chat.conversations.getSnapshot().map(({ id }) => id);
  await room.leave();
  assert.deepEqual(
    [listedIds(), room.info.getSnapshot(), room.state.getSnapshot()],
    [["#other"], undefined, "missing"],
  );
  server.logs.delete("#private");
  // An event that was in flight does not open the conversation again.
  server.say(lateEvent);
  await runPendingTasks();
  assert.deepEqual([listedIds(), server.sent("conversations").length, refusals], [["#other"], 0, 0]);
  await clock.advance(5_000);
  assert.deepEqual([listedIds(), room.state.getSnapshot()], [["#other"], "missing"]);
});

test("a `timeout` that is not a number of milliseconds is refused as `invalid`", async (t) => {
  const { chat } = await startChat(t, new LogServer());
  for (const timeout of [-1, NaN, "1000", null]) {
    await assert.rejects(chat.command("profile", {}, { timeout }), { code: "invalid" });
    await assert.rejects(chat.ready({ timeout }), { code: "invalid" });
  }
  await chat.ready({ timeout: Infinity });
});
