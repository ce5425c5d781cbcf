// How a conversation handles the server's frames in any order, on a scripted server and a clock that the tests
// move.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startChat, LogServer, runPendingTasks, shownTexts } from "./fake-log.js";

/** A server with one room of this many messages, and a chat that has opened it. */
async function openRoom(t, { messages = 3, id = "#general", ...options } = {}, chatOptions = {}) {
  const server = new LogServer(options);
  server.fill(id, messages);
  const { chat, ...more } = await startChat(t, server, chatOptions);
  const room = chat.conversation(id);
  t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  return { server, chat, room, ...more };
}

test("two objects of one conversation are both alive once the user is known", async (t) => {
  const server = new LogServer();
  server.fill("@alice:bob", 2);
  // The token does not name the user; `welcome` does.
  const { chat } = await startChat(t, server, { user: undefined, token: "a.b.c", start: false }, { now: false });
  const [short, long] = [chat.conversation("@bob"), chat.conversation("@alice:bob")];
  assert.notEqual(short, long);
  const heardEvents = [];
  for (const [name, room] of Object.entries({ short, long })) {
    t.after(room.messages.subscribe(() => {}));
    room.on("message", ({ text }) => heardEvents.push(`${name} ${text}`));
  }
  chat.start();
  await runPendingTasks();
  server.message("@alice:bob", "to both");
  await runPendingTasks();
  assert.deepEqual(
    [shownTexts(short), shownTexts(long)],
    [
      ["0", "1", "to both"],
      ["0", "1", "to both"],
    ],
  );
  assert.deepEqual(heardEvents.sort(), ["long to both", "short to both"]);
  assert.equal(server.sent("history").length, 1, "loaded once");
  assert.equal([short, long].includes(chat.conversation("@bob")), true);
  short.send("from the short name");
  await runPendingTasks();
  assert.deepEqual(shownTexts(long).at(-1), "from the short name");
  assert.deepEqual([short.id, long.id, short.state.getSnapshot()], ["@alice:bob", "@alice:bob", "ready"]);
});

test("what is no name of a conversation is refused at once", async (t) => {
  const { chat } = await openRoom(t);
  for (const name of [
    "general",
    "",
    "#",
    "@",
    "#a b",
    "@bob:alice",
    "@carol:dave",
    `#${"x".repeat(65)}`,
    undefined,
    {},
  ])
    assert.throws(() => chat.conversation(name), { name: "ChatError", code: "invalid" }, String(name));
  for (const name of ["#general", "@bob", "@alice:bob", "@alice:alice", "#a.b_c~+=|@-", "@someone@example.org"])
    assert.ok(chat.conversation(name), name);
});

test("an `ok` that overtakes events waits for them: no `sync`", async (t) => {
  const { server, room, clock } = await openRoom(t);
  server.on("send", ({ to, id, type, ...what }) => {
    // Another user's event is stored before the user's own message, and arrives after the answer to the message.
    const eventBefore = server.store(to, { type: "message", key: "b", text: "before" });
    const { conversation, seq, at } = server.store(to, { type: "message", from: "alice", ...what });
    queueMicrotask(() => server.say(eventBefore));
    return { conversation, seq, at };
  });
  for (let n = 0; n < 20; n++) {
    room.send(`own ${n}`);
    await runPendingTasks();
  }
  await clock.advance(1_000);
  assert.equal(shownTexts(room).length, 43);
  assert.equal(server.sent("sync").length, 0);
});

test("what was overtaken and does not come within 300 ms is asked for", async (t) => {
  const { server, room, clock } = await openRoom(t);
  server.store("#general", { type: "message", key: "lost", text: "lost on its way" });
  server.message("#general", "after it");
  await runPendingTasks();
  assert.deepEqual(shownTexts(room), ["0", "1", "2"]);
  await clock.advance(299);
  assert.equal(server.sent("sync").length, 0);
  await clock.advance(10);
  assert.deepEqual(shownTexts(room), ["0", "1", "2", "lost on its way", "after it"]);
  assert.equal(server.sent("sync").length, 1);
});

test("after a restored backup nothing of the old log is shown", async (t) => {
  const { server, room, clock, comeBack } = await openRoom(t, { messages: 8 });
  const resyncs = [];
  room.on("resync", () => resyncs.push(1));
  // The event arrives although an earlier one is missing.
  server.say({ ...server.store("#general", { type: "message", key: "x", text: "of the old log" }), seq: 10 });
  await runPendingTasks();
  await comeBack(() => {
    server.logs.set("#general", server.logs.get("#general").slice(0, 4));
    server.store("#general", { type: "message", key: "n5", text: "new 5" });
  });
  await clock.advance(1_000);
  assert.deepEqual(shownTexts(room), ["0", "1", "2", "3", "new 5"]);
  for (let n = 6; n < 12; n++) server.message("#general", `new ${n}`);
  await clock.advance(1_000);
  assert.deepEqual(shownTexts(room), ["0", "1", "2", "3", ...[5, 6, 7, 8, 9, 10, 11].map((n) => `new ${n}`)]);
  assert.equal(resyncs.length, 1);
});

test("reactions with the names of every object's properties", async (t) => {
  const { server, room } = await openRoom(t);
  for (const emoji of ["constructor", "__proto__", "toString", "hasOwnProperty", "👍"])
    server.write("#general", { type: "react", target: 1, emoji, on: true });
  server.write("#general", { type: "react", target: 1, emoji: "valueOf", on: false });
  server.write("#general", { type: "react", target: 1, emoji: "toString", on: false });
  await runPendingTasks();
  const { reactions } = room.messages.getSnapshot()[0];
  assert.deepEqual(Object.entries(reactions), [
    ["__proto__", ["bob"]],
    ["constructor", ["bob"]],
    ["hasOwnProperty", ["bob"]],
    ["👍", ["bob"]],
  ]);
  assert.equal(Object.getPrototypeOf(reactions), Object.prototype);
});

test("a listener that throws stops nothing, and is reported as `internal` with its cause", async (t) => {
  const { server, chat, room, errors } = await openRoom(t);
  const mistake = new Error("a mistake of the app's");
  const throwMistake = () => {
    throw mistake;
  };
  chat.on("message", throwMistake);
  room.on("message", throwMistake);
  room.on("event", throwMistake);
  let first = true;
  t.after(room.messages.subscribe(() => (first ? (first = false) : throwMistake())));
  const heardEvents = [];
  chat.on("message", ({ message }) => heardEvents.push(message.text));
  server.message("#general", "one");
  server.message("#general", "two");
  await runPendingTasks();
  assert.deepEqual(heardEvents, ["one", "two"]);
  assert.deepEqual(shownTexts(room).slice(-2), ["one", "two"]);
  assert.ok(errors.length >= 6);
  assert.ok(errors.every(({ code, cause }) => code === "internal" && cause === mistake));
});

test("the list is a new one only when a message has changed", async (t) => {
  const { server, room } = await openRoom(t);
  let renders = 0;
  t.after(room.messages.subscribe(() => renders++));
  const shownBefore = room.messages.getSnapshot();
  room.markRead();
  server.say({ type: "read", conversation: "#general", user: "bob", upto: 2 });
  server.write("#general", { type: "rename", title: "Other" });
  await runPendingTasks();
  assert.equal(room.messages.getSnapshot(), shownBefore);
  assert.equal(renders, 1);
  assert.equal(room.info.getSnapshot().title, "Other");
  server.message("#general", "new");
  await runPendingTasks();
  assert.equal(renders, 2);
  assert.equal(room.messages.getSnapshot()[0], shownBefore[0], "the others are the same objects");
});

test("edits, deletions and reactions show at once, and are taken back where they fail", async (t) => {
  const { server, room } = await openRoom(t);
  const heldBackAnswers = [];
  const holdBackAnswersTo = (type) =>
    server.on(type, (frame) => {
      heldBackAnswers.push((answer) => server.say({ type: "ok", id: frame.id, ...answer }));
      return undefined;
    });
  for (const type of ["edit", "delete", "react"]) holdBackAnswersTo(type);
  const failedEdits = [];
  room.on("editFailed", (event) => failedEdits.push(event));
  const refusal = { type: "error", code: "forbidden", message: "not yours", retryable: false };

  const editing = room.edit(1, "edited");
  const deleting = room.deleteMessage(2);
  const reacting = room.react(3, "👍");
  await runPendingTasks();
  const [one, two, three] = room.messages.getSnapshot();
  assert.deepEqual([one.text, two.deleted, three.reactions], ["edited", true, { "👍": ["alice"] }]);
  assert.equal(room.messages.getSnapshot()[0], one);
  for (const answer of heldBackAnswers.splice(0)) answer(refusal);
  for (const promise of [editing, deleting, reacting]) await assert.rejects(promise, { code: "forbidden" });
  await runPendingTasks();
  assert.deepEqual(
    room.messages.getSnapshot().map(({ text, deleted, reactions }) => [text, deleted, reactions]),
    [0, 1, 2].map((n) => [String(n), undefined, {}]),
  );
  assert.deepEqual(
    failedEdits.map(({ seq, draft, error }) => [seq, draft, error.code]),
    [[1, { text: "edited" }, "forbidden"]],
  );

  void room.edit(1, "again");
  await runPendingTasks();
  const { conversation, seq, at } = server.store("#general", { type: "edit", from: "alice", target: 1, text: "again" });
  heldBackAnswers[0]({ conversation, seq, at });
  await runPendingTasks();
  const [edited] = room.messages.getSnapshot();
  assert.deepEqual([edited.text, edited.edited], ["again", { seq, at }]);
});

test("an edit without a connection shows, fails in time, and gives its text back", async (t) => {
  const { server, room, clock } = await openRoom(t);
  server.reachable = false;
  server.cut();
  await runPendingTasks();
  const failedEdits = [];
  room.on("editFailed", ({ draft, error }) => failedEdits.push([draft.text, error.code]));
  const editing = room.edit(1, "written on a train", { timeout: 5_000 });
  await runPendingTasks();
  assert.equal(shownTexts(room)[0], "written on a train");
  const editRejected = assert.rejects(editing, { code: "offline" });
  await clock.advance(5_000);
  await editRejected;
  assert.equal(shownTexts(room)[0], "0");
  assert.deepEqual(failedEdits, [["written on a train", "offline"]]);
});

test("an answer with the stored event stands in place of one's own copy", async (t) => {
  const { server, room } = await openRoom(t);
  server.on("send", ({ to, key }) => {
    const storedEvent = server.store(to, { type: "message", from: "alice", key, text: "what a filter made of it" });
    const { conversation, seq, at } = storedEvent;
    return { conversation, seq, at, event: storedEvent };
  });
  room.send("what was written");
  await runPendingTasks();
  assert.equal(shownTexts(room).at(-1), "what a filter made of it");
});

test("events that are withheld keep their place; an erasure makes the list anew", async (t) => {
  const { server, room, clock } = await openRoom(t);
  const heardEvents = [];
  room.on("message", ({ text }) => heardEvents.push(text));
  const resync = new Promise((resolve) => room.on("resync", resolve));
  server.write("#general", { type: "withheld", of: "message", withheld: "blocked" });
  server.message("#general", "behind it");
  await runPendingTasks();
  assert.deepEqual(shownTexts(room), ["0", "1", "2", "behind it"]);
  assert.equal(room.info.getSnapshot().unread, 4, "what is withheld is not counted");
  const serverLog = server.logs.get("#general");
  for (const event of serverLog)
    if (event.type === "message") Object.assign(event, { from: "erased-1", text: undefined, deleted: true });
  server.write("#general", { type: "erase", from: "erased-1" });
  await resync;
  await runPendingTasks();
  assert.ok(room.messages.getSnapshot().every(({ deleted, from }) => deleted && from === "erased-1"));
  server.message("#general", "life goes on");
  await clock.advance(1_000);
  assert.deepEqual(heardEvents, ["behind it", "life goes on"]);
  assert.equal(server.sent("sync").length, 0);
});

test("one's own typing on another device is not shown", async (t) => {
  const { server, room } = await openRoom(t);
  server.say({ type: "typing", conversation: "#general", user: "alice" });
  server.say({ type: "typing", conversation: "#general", user: "bob" });
  await runPendingTasks();
  assert.deepEqual(room.typing.getSnapshot(), ["bob"]);
});

test("joins, leaves, renames and roles come between the messages, live and from the log", async (t) => {
  const server = new LogServer();
  server.store("#general", { type: "create", public: true, members: ["alice"], title: "G" });
  server.fill("#general", 1);
  server.store("#general", { type: "join", from: "carol" });
  server.fill("#general", 1);
  const { chat } = await startChat(t, server);
  const room = chat.conversation("#general");
  const shownSeqs = () =>
    room.timeline.getSnapshot().map((entry) => (entry.kind === "message" ? entry.text : `${entry.from} ${entry.type}`));
  const stop = room.messages.subscribe(() => {});
  await runPendingTasks();
  assert.equal(server.sent("sync").length, 0, "nobody has asked for notices");
  t.after(room.timeline.subscribe(() => {}));
  await runPendingTasks();
  assert.deepEqual(shownSeqs(), ["bob create", "0", "carol join", "0"]);
  assert.equal(server.sent("sync").length, 1);
  server.write("#general", { type: "rename", title: "H" });
  server.write("#general", { type: "leave", from: "carol" });
  await runPendingTasks();
  assert.deepEqual(shownSeqs(), ["bob create", "0", "carol join", "0", "bob rename", "carol leave"]);
  assert.equal(server.sent("sync").length, 1);
  stop();
});

test("the messages around one, and whether there are others on each side", async (t) => {
  const { room } = await openRoom(t, { messages: 200 });
  const windowAround100 = await room.around(100);
  assert.deepEqual(
    [windowAround100.hasOlder, windowAround100.hasNewer, windowAround100.messages.length],
    [true, true, 50],
  );
  assert.ok(windowAround100.messages.some(({ seq }) => seq === 100));
});

test("hasOlder says whether there are earlier messages, loadOlder whether it added any", async (t) => {
  const { room } = await openRoom(t, { messages: 120 });
  assert.equal(room.hasOlder.getSnapshot(), true);
  assert.equal(await room.loadOlder(), true);
  assert.deepEqual([room.hasOlder.getSnapshot(), await room.loadOlder()], [true, true]);
  assert.deepEqual([room.hasOlder.getSnapshot(), await room.loadOlder()], [false, false]);
  assert.equal(shownTexts(room).length, 120);
});
