// Background requests of the SDK: their rate, number and order, on a scripted server and a clock that the tests move.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "@switchboard/client";
import { startChat, FakeClock, LogServer, runPendingTasks, shownTexts } from "./fake-log.js";

/** Records the times at which frames of these types arrive. */
function recordFrameTimes(server, clock, ...types) {
  const frameTimes = [];
  const { receive } = server;
  server.receive = (frame, socket) => {
    if (types.includes(frame.type)) frameTimes.push(clock.now());
    return receive.call(server, frame, socket);
  };
  return frameTimes;
}

/** The most frames within any second. */
const maxFramesPerSecond = (times) =>
  Math.max(0, ...times.map((from) => times.filter((at) => at >= from && at < from + 1_000).length));

/** Moves the clock in small steps, so that the effects of each step happen before the next one. */
async function advanceSeconds(clock, seconds) {
  for (let n = 0; n < seconds * 10; n++) await clock.advance(100);
}

test("300 conversations with news after an outage: each message once, at most half of the rate", async (t) => {
  const server = new LogServer({ limits: { frames_per_connection: 20, hello_frame: 600 } });
  for (let n = 0; n < 300; n++) server.fill(`#room${n}`, 1);
  const { chat, clock, comeBack } = await startChat(t, server);
  const heardEvents = [];
  chat.on("message", ({ message, conversation }) => heardEvents.push(`${conversation.id} ${message.text}`));
  await advanceSeconds(clock, 2);
  const frameTimes = recordFrameTimes(server, clock, "sync", "conversations", "received", "history");
  await comeBack(() => {
    for (let n = 0; n < 300; n++) server.store(`#room${n}`, { type: "message", key: "n", text: "news" });
  });
  await advanceSeconds(clock, 45);
  assert.equal(chat.status.getSnapshot().state, "online");
  assert.equal(heardEvents.length, 300);
  assert.equal(new Set(heardEvents).size, 300);
  assert.ok(maxFramesPerSecond(frameTimes) <= 10, `${maxFramesPerSecond(frameTimes)} frames within a second`);
});

test("a conversation whose head is the cursor costs no `sync`", async (t) => {
  const server = new LogServer({ limits: { hello_frame: 300 } });
  for (let n = 0; n < 200; n++) server.fill(`#room${n}`, 1);
  const { chat, clock, comeBack } = await startChat(t, server);
  chat.on("message", () => {});
  await advanceSeconds(clock, 2);
  await comeBack(() => server.store("#room7", { type: "message", key: "n", text: "news" }));
  await advanceSeconds(clock, 3);
  assert.equal(server.sent("sync").length <= 1, true, `${server.sent("sync").length}`);
  assert.equal(server.frames.length < 60, true, `${server.frames.length}`);
});

test("what is on the screen comes first, in `hello` and after it", async (t) => {
  const server = new LogServer({ replay: 1, limits: { hello_frame: 300 } });
  for (let n = 0; n < 40; n++) server.fill(`#room${n}`, 1);
  const { chat, clock, comeBack } = await startChat(t, server);
  chat.on("message", () => {});
  const room = chat.conversation("#room3");
  t.after(room.messages.subscribe(() => {}));
  await advanceSeconds(clock, 2);
  await comeBack(() => {
    for (let n = 0; n < 40; n++) server.fill(`#room${n}`, 5);
  });
  assert.equal(Object.keys(server.sent("hello")[1].cursors)[0], "#room3");
  await advanceSeconds(clock, 5);
  // The `gap` arrives after `welcome`, when the first requests are already sent.
  const indexOfSync = server.sent("sync").findIndex(({ conversation }) => conversation === "#room3");
  assert.ok(indexOfSync <= 5, `${indexOfSync} of ${server.sent("sync").length}`);
  assert.equal(shownTexts(room).length, 6);
});

test("what the server refuses for now is asked again, later each time, and not by all at once", async (t) => {
  const server = new LogServer();
  server.fill("#general", 1);
  const refusal = { type: "error", code: "unavailable", message: "not now", retryable: true };
  const clock = new FakeClock();
  server.on("history", () => refusal);
  const frameTimes = recordFrameTimes(server, clock, "history");
  const { chat } = await startChat(t, server, { clock });
  t.after(chat.conversation("#general").messages.subscribe(() => {}));
  await advanceSeconds(clock, 20);
  const waitsBetweenFrames = frameTimes.slice(1).map((at, n) => at - frameTimes[n]);
  assert.ok(frameTimes.length >= 4 && frameTimes.length <= 9, `${frameTimes.length}`);
  assert.ok(waitsBetweenFrames.at(-1) > 2_000, `${waitsBetweenFrames}`);
  server.on("history", (frame) => server.history(frame));
  await advanceSeconds(clock, 20);
  assert.equal(chat.conversation("#general").state.getSnapshot(), "ready");
});

test('20,000 missed events with `replay: "none"`: the list is made anew, and nothing is paged', async (t) => {
  const server = new LogServer({ replay: 50 });
  server.fill("#general", 100);
  const { chat, clock, comeBack } = await startChat(t, server);
  const room = chat.conversation("#general");
  const heardEvents = [];
  chat.on("message", ({ message }) => heardEvents.push(message.text), { replay: "none" });
  room.on("message", ({ text }) => heardEvents.push(`room ${text}`), { replay: "none" });
  t.after(room.messages.subscribe(() => {}));
  await advanceSeconds(clock, 1);
  let resyncs = 0;
  room.on("resync", () => resyncs++);
  const historyRequestsBefore = server.sent("history").length;
  await comeBack(() => server.fill("#general", 20_000));
  await advanceSeconds(clock, 3);
  assert.deepEqual(
    [server.sent("history").length - historyRequestsBefore, server.sent("sync").length, resyncs],
    [1, 0, 1],
  );
  assert.equal(shownTexts(room).at(-1), "19999");
  assert.deepEqual(heardEvents, [], "nothing that was missed is told");
  server.message("#general", "live");
  await runPendingTasks();
  assert.deepEqual(heardEvents, ["room live", "live"]);
});

test("`replay`: a listener that wants all hears what was missed, one that wants none what comes live", async (t) => {
  const server = new LogServer({ replay: 50 });
  server.fill("#general", 3);
  const { chat, clock, comeBack } = await startChat(t, server);
  const [all, none] = [[], []];
  chat.on("message", ({ message }) => all.push(message.text), { replay: "all" });
  chat.on("message", ({ message }) => none.push(message.text), { replay: "none" });
  await advanceSeconds(clock, 1);
  await comeBack(() => server.store("#general", { type: "message", key: "m", text: "missed" }));
  await advanceSeconds(clock, 1);
  server.message("#general", "live");
  await advanceSeconds(clock, 1);
  await comeBack(() => server.fill("#general", 100));
  await advanceSeconds(clock, 5);
  assert.deepEqual([all.length, none], [102, ["live"]]);
});

test("a conversation that began during an outage is heard from its first message", async (t) => {
  const server = new LogServer();
  for (let n = 0; n < 120; n++) server.fill(`#room${n}`, 2);
  const { chat, clock, comeBack } = await startChat(t, server);
  const heardEvents = [];
  chat.on("message", ({ message, conversation }) => heardEvents.push(`${conversation.id} ${message.text}`));
  await advanceSeconds(clock, 2);
  await comeBack(() => server.fill("@alice:bob", 3));
  await advanceSeconds(clock, 2);
  assert.deepEqual(heardEvents, ["@alice:bob 0", "@alice:bob 1", "@alice:bob 2"]);
});

test("200 read signals a second in a room of 50: one `members` request, and the higher cursors", async (t) => {
  const server = new LogServer();
  server.fill("#general", 300);
  const members = Array.from({ length: 50 }, (_, n) => ({ user: `user${n}`, role: "member", read: 5, received: 5 }));
  let answer;
  server.on("members", (frame) => {
    answer = () => server.say({ type: "ok", id: frame.id, conversation: frame.conversation, members, more: false });
  });
  const { chat, clock } = await startChat(t, server);
  const room = chat.conversation("#general");
  t.after(room.members.subscribe(() => {}));
  await runPendingTasks();
  // Signals for members who are not loaded yet: the page of members is answered below.
  server.say({ type: "read", conversation: "#general", user: "user1", upto: 250 });
  server.say({ type: "read", conversation: "#general", user: "user2", upto: 2 });
  await runPendingTasks();
  answer();
  for (let n = 0; n < 200; n++) {
    server.say({ type: "read", conversation: "#general", user: `user${n % 50}`, upto: 20 + n });
    if (n % 10 === 0) await clock.advance(50);
  }
  await clock.advance(1_000);
  assert.equal(server.sent("members").length, 1);
  const memberByName = new Map(room.members.getSnapshot().map((member) => [member.user, member]));
  assert.deepEqual(
    [memberByName.get("user1").read, memberByName.get("user2").read, memberByName.get("user49").read],
    [250, 172 + 0, 219],
  );
  assert.equal(room.members.complete, true);
});

test("a long list of members says that it is not complete, and loads more", async (t) => {
  const server = new LogServer();
  server.fill("#general", 3);
  const allMembers = Array.from({ length: 1_300 }, (_, n) => ({
    user: `u${String(n).padStart(4, "0")}`,
    role: "member",
    read: 0,
    received: 0,
  }));
  server.on("members", ({ conversation, after, limit }) => {
    const firstIndex = after === undefined ? 0 : allMembers.findIndex(({ user }) => user === after) + 1;
    return {
      conversation,
      members: allMembers.slice(firstIndex, firstIndex + limit),
      more: firstIndex + limit < allMembers.length,
    };
  });
  const { chat, clock } = await startChat(t, server);
  const { members } = chat.conversation("#general");
  t.after(members.subscribe(() => {}));
  await advanceSeconds(clock, 1);
  assert.deepEqual([members.getSnapshot().length, members.complete], [1_000, false]);
  const concurrentLoads = [members.loadMore(), members.loadMore()];
  await advanceSeconds(clock, 1);
  assert.deepEqual(await Promise.all(concurrentLoads), [true, true]);
  assert.deepEqual([members.getSnapshot().length, members.complete], [1_200, false]);
  const lastLoad = members.loadMore();
  await advanceSeconds(clock, 1);
  assert.deepEqual([await lastLoad, members.getSnapshot().length, members.complete], [true, 1_300, true]);
  assert.equal(await members.loadMore(), false);
});

test("what was read without a connection is told with the next one, once", async (t) => {
  const server = new LogServer();
  server.fill("#general", 5);
  const { chat, clock, comeBack } = await startChat(t, server);
  const room = chat.conversation("#general");
  t.after(room.messages.subscribe(() => {}));
  await advanceSeconds(clock, 1);
  await comeBack(async () => {
    room.markRead();
    await advanceSeconds(clock, 2);
    assert.equal(room.info.getSnapshot().unread, 0);
    assert.equal(server.sent("read").length, 0);
  });
  await advanceSeconds(clock, 2);
  assert.deepEqual(
    server.sent("read").map(({ upto }) => upto),
    [5],
  );
  assert.equal(room.info.getSnapshot().unread, 0);
  await comeBack();
  await advanceSeconds(clock, 2);
  assert.equal(server.sent("read").length, 1, "the server knows");
});

test("a clock that is set back delays no `read`", async (t) => {
  const server = new LogServer();
  server.fill("#general", 5);
  const { chat, clock } = await startChat(t, server);
  const room = chat.conversation("#general");
  t.after(room.messages.subscribe(() => {}));
  await advanceSeconds(clock, 1);
  room.markRead(2);
  await advanceSeconds(clock, 1);
  clock.offset -= 3_600_000;
  room.markRead(4);
  await advanceSeconds(clock, 1);
  assert.deepEqual(
    server.sent("read").map(({ upto }) => upto),
    [2, 4],
  );
});

test("that messages arrived is told once a second, and survives an outage", async (t) => {
  const server = new LogServer();
  server.fill("#general", 1);
  const { chat, clock, comeBack } = await startChat(t, server);
  t.after(chat.conversation("#general").messages.subscribe(() => {}));
  await advanceSeconds(clock, 2);
  for (let n = 0; n < 20; n++) server.message("#general", `${n}`);
  await clock.advance(500);
  server.cut();
  await runPendingTasks();
  await advanceSeconds(clock, 0.3);
  await comeBack();
  await advanceSeconds(clock, 3);
  assert.deepEqual(
    server.sent("received").map(({ upto }) => upto),
    [21],
  );
});

test("unread messages are counted over all conversations, also those that are not loaded", async (t) => {
  const server = new LogServer();
  for (let n = 0; n < 60; n++) server.fill(`#room${n}`, 1);
  server.welcome.unread = { messages: 60, conversations: 60, more: false };
  const { chat, clock } = await startChat(t, server);
  const unreadSnapshot = () => {
    const { messages, conversations, more } = chat.unread.getSnapshot();
    return [messages, conversations, more];
  };
  assert.deepEqual(unreadSnapshot(), [60, 60, false]);
  assert.equal(chat.conversations.getSnapshot().length, 50);
  assert.equal(chat.conversations.hasMore.getSnapshot(), true);
  // A message of a conversation that is not loaded.
  server.message("#room3", "more");
  await advanceSeconds(clock, 1);
  assert.deepEqual(unreadSnapshot(), [61, 60, false]);
  assert.equal(await chat.conversations.loadMore(), true);
  assert.deepEqual(unreadSnapshot(), [61, 60, false]);
  assert.deepEqual([chat.conversations.hasMore.getSnapshot(), await chat.conversations.loadMore()], [false, false]);
  const room = chat.conversation("#room3");
  t.after(room.messages.subscribe(() => {}));
  await advanceSeconds(clock, 1);
  room.markRead();
  assert.deepEqual(unreadSnapshot(), [59, 59, false]);
});

test("ready() resolves online, and rejects for good, in time, or by its signal", async (t) => {
  const server = new LogServer();
  server.reachable = false;
  const { chat, clock } = await startChat(t, server, { start: false }, { now: false });
  const controller = new AbortController();
  const [aborted, late, ready] = [
    chat.ready({ signal: controller.signal }),
    chat.ready({ timeout: 1_000 }),
    chat.ready(),
  ];
  const settledCommands = Promise.allSettled([aborted, late]);
  controller.abort();
  await clock.advance(1_000);
  assert.deepEqual(
    (await settledCommands).map(({ reason }) => reason.code),
    ["aborted", "offline"],
  );
  server.reachable = true;
  chat.start();
  await runPendingTasks();
  assert.equal(await ready, chat);
  const refusingServer = new LogServer().on("hello", (_, socket) => void socket.end(4501, "no"));
  const { chat: other } = await startChat(t, refusingServer);
  await assert.rejects(other.ready(), { code: "unauthorized" });
  other.close();
  await assert.rejects(other.ready(), { code: "closed" });
});

test("any command, with a signal and a time-out; and frames that are not known here", async (t) => {
  const server = new LogServer();
  server.on("profile", ({ name }) => ({ user: "alice", name }));
  server.on("slow", () => undefined);
  const { chat, clock } = await startChat(t, server);
  assert.deepEqual((await chat.command("profile", { name: "Ana" })).name, "Ana");
  const timedOut = assert.rejects(chat.command("slow", {}, { timeout: 2_000 }), { code: "timeout" });
  await clock.advance(2_000);
  await timedOut;
  const controller = new AbortController();
  const abortedCommand = assert.rejects(chat.command("slow", {}, { signal: controller.signal }), { code: "aborted" });
  controller.abort();
  await abortedCommand;
  await assert.rejects(chat.command("slow", {}, { signal: AbortSignal.abort() }), { code: "aborted" });
  const frames = [];
  chat.on("frame", (frame) => frames.push(frame));
  server.say({ type: "profile", user: "bob", name: "Bob" });
  await runPendingTasks();
  assert.deepEqual(frames, [{ type: "profile", user: "bob", name: "Bob" }]);
});

/** A storage of cursors, like that of an app. */
function memoryCursors() {
  const storedCursors = {};
  return {
    kept: storedCursors,
    load: async () => ({ ...storedCursors }),
    save: async (_, cursors) => void Object.assign(storedCursors, cursors),
  };
}

test("with `cursors` a bot hears after a restart what it has missed, in order, and nothing before its first run", async (t) => {
  const server = new LogServer({ replay: 10, limits: { hello_frame: 400 } });
  for (let n = 0; n < 80; n++) server.fill(`#room${n}`, 3);
  const cursors = memoryCursors();
  const runWithStoredCursors = async (act) => {
    const { chat, clock } = await startChat(t, server, { cursors });
    const heardEvents = [];
    chat.on("message", ({ message, conversation }) => heardEvents.push(`${conversation.id} ${message.seq}`));
    await advanceSeconds(clock, 3);
    await act?.();
    await advanceSeconds(clock, 10);
    chat.close();
    await runPendingTasks();
    return heardEvents;
  };
  assert.deepEqual(await runWithStoredCursors(() => server.message("#room5", "live")), ["#room5 4"]);
  server.fill("#room5", 2);
  server.fill("#room79", 300);
  server.fill("#room0", 1);
  server.fill("@alice:carol", 2);
  const heardEvents = await runWithStoredCursors();
  const heardNumbersOf = (id) =>
    heardEvents.filter((line) => line.startsWith(`${id} `)).map((line) => Number(line.split(" ")[1]));
  assert.deepEqual(
    [heardNumbersOf("#room5"), heardNumbersOf("#room0"), heardNumbersOf("@alice:carol")],
    [[5, 6], [4], [1, 2]],
  );
  assert.deepEqual(
    heardNumbersOf("#room79"),
    Array.from({ length: 300 }, (_, n) => n + 4),
  );
  assert.equal(heardEvents.length, 305);
  assert.deepEqual(await runWithStoredCursors(), [], "all of it was heard");
});

test("a message counts as heard when what its listener has promised is done", async (t) => {
  const server = new LogServer();
  server.fill("#general", 1);
  const cursors = memoryCursors();
  const { chat, clock } = await startChat(t, server, { cursors });
  const finishedRooms = [];
  chat.on("message", () => new Promise((resolve) => finishedRooms.push(resolve)));
  await advanceSeconds(clock, 1);
  for (let n = 0; n < 3; n++) server.message("#general", `${n}`);
  await advanceSeconds(clock, 1);
  assert.equal(cursors.kept["#general"], 1);
  finishedRooms[1]();
  await advanceSeconds(clock, 1);
  assert.equal(cursors.kept["#general"], 1, "not while the one before is under way");
  finishedRooms[0]();
  await advanceSeconds(clock, 1);
  assert.equal(cursors.kept["#general"], 3);
});

test("a conversation is released some time after its last subscriber, and by itself takes no part in reconnects", async (t) => {
  const server = new LogServer();
  for (let n = 0; n < 3; n++) server.fill(`#room${n}`, 80);
  const { chat, clock, comeBack } = await startChat(t, server, { releaseAfter: 10_000 });
  const [one, two, three] = [0, 1, 2].map((n) => chat.conversation(`#room${n}`));
  const unsubscribes = [one, two, three].map((room) => room.messages.subscribe(() => {}));
  await advanceSeconds(clock, 1);
  unsubscribes[0]();
  await advanceSeconds(clock, 9);
  assert.equal(shownTexts(one).length, 50, "still there");
  unsubscribes[0] = one.messages.subscribe(() => {});
  await advanceSeconds(clock, 20);
  assert.equal(shownTexts(one).length, 50, "somebody has come back");
  unsubscribes[0]();
  two.release();
  await advanceSeconds(clock, 11);
  assert.deepEqual([shownTexts(one), shownTexts(two), shownTexts(three).length], [[], [], 50]);
  assert.deepEqual([one.state.getSnapshot(), one.info.getSnapshot().unread], ["loading", 80]);
  await comeBack();
  assert.deepEqual(Object.keys(server.sent("hello").at(-1).cursors), ["#room2"]);
  server.message("#room0", "still counted");
  await runPendingTasks();
  assert.equal(one.info.getSnapshot().unread, 81);
  unsubscribes[0] = one.messages.subscribe(() => {});
  await advanceSeconds(clock, 1);
  assert.equal(shownTexts(one).at(-1), "still counted");
  chat.close();
  assert.equal(clock.timers, 0, "a closed chat keeps no timer");
});

test("`releaseAfter: Infinity` keeps what was opened", async (t) => {
  const server = new LogServer();
  server.fill("#general", 3);
  const clock = new FakeClock();
  const { WebSocket } = server;
  const chat = connect("ws://chat.example", { user: "alice", outbox: null, WebSocket, clock, releaseAfter: Infinity });
  t.after(() => chat.close());
  const room = chat.conversation("#general");
  const unsubscribe = room.messages.subscribe(() => {});
  await advanceSeconds(clock, 1);
  unsubscribe();
  await clock.advance(86_400_000);
  assert.equal(shownTexts(room).length, 3);
});
