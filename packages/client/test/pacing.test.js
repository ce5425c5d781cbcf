// Tests of the SDK's background requests: thousands at once, and answers that make no progress.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startChat, LogServer, runPendingTasks } from "./fake-log.js";

/** A server with 300 unread conversations, and the times at which `read` frames arrive. */
async function chatWithUnreadRooms(t) {
  const server = new LogServer({ page: 400 });
  for (let n = 0; n < 300; n++) server.fill(`#room${n}`, 2);
  const serverAndChat = await startChat(t, server);
  const frameTimes = [];
  server.on("read", ({ conversation, upto }) => {
    frameTimes.push(serverAndChat.clock.now());
    server.readSeq.set(conversation, upto);
    return { conversation, upto };
  });
  const maxFramesPerSecond = () =>
    Math.max(...frameTimes.map((at) => frameTimes.filter((other) => other >= at && other < at + 1_000).length));
  const markAllRead = () =>
    serverAndChat.chat.conversations.getSnapshot().forEach(({ id }) => serverAndChat.chat.conversation(id).markRead());
  return { server, times: frameTimes, most: maxFramesPerSecond, markAll: markAllRead, ...serverAndChat };
}

test("marking 300 conversations read uses at most half of the rate, and tells all of them", async (t) => {
  const { server, chat, clock, times, most, markAll } = await chatWithUnreadRooms(t);
  markAll();
  assert.equal(chat.unread.getSnapshot().messages, 0, "at once on the screen");
  await clock.advance(10_000);
  assert.deepEqual([times.length, server.readSeq.size], [300, 300]);
  assert.ok(most() <= 50, `${most()} frames within a second`);
});

test("300 conversations read without a connection are told with the next one, paced", async (t) => {
  const { server, clock, times, most, markAll, comeBack } = await chatWithUnreadRooms(t);
  await comeBack(markAll);
  await clock.advance(10_000);
  assert.deepEqual([times.length, server.readSeq.size], [300, 300]);
  assert.ok(most() <= 50, `${most()} frames within a second`);
});

test("what a person has read is told while a long catch-up uses the whole rate", async (t) => {
  const server = new LogServer({ page: 400, replay: 0, limits: { frames_per_connection: 20, hello_frame: 400 } });
  for (let n = 0; n < 100; n++) server.fill(`#room${n}`, 2);
  const { chat, clock, comeBack } = await startChat(t, server);
  chat.on("message", () => {});
  await clock.advance(1_000);
  await comeBack(() => {
    for (const id of server.logs.keys()) server.fill(id, 1);
  });
  await clock.advance(1_000);
  const syncCount = () => server.sent("sync").length;
  const [before, away, shown] = [syncCount(), chat.conversation("#room7"), chat.conversation("#room8")];
  assert.ok(before > 0 && before < 50, `${before} pages`);
  t.after(shown.messages.subscribe(() => {}));
  const syncCountAfterOpening = syncCount();
  const readSeqByRoom = new Map();
  server.on("read", ({ conversation, upto }) => {
    readSeqByRoom.set(conversation, syncCount() - syncCountAfterOpening);
    return { conversation, upto };
  });
  away.markRead(2);
  shown.markRead(2);
  await clock.advance(60_000);
  assert.deepEqual([...readSeqByRoom.keys()].sort(), ["#room7", "#room8"]);
  for (const [room, waited] of readSeqByRoom) assert.ok(waited <= 5, `${room} waited for ${waited} pages`);
  assert.ok(syncCount() >= 100, "all was caught up with");
});

test("a `read` that waits for its turn tells what was read until then", async (t) => {
  const server = new LogServer();
  server.fill("#general", 9);
  const { chat, clock } = await startChat(t, server);
  const room = chat.conversation("#general");
  const answeredRequests = [];
  server.on("read", (frame, socket) => {
    server.readSeq.set(frame.conversation, frame.upto);
    answeredRequests.push(() =>
      socket.say({ type: "ok", id: frame.id, conversation: frame.conversation, upto: frame.upto }),
    );
  });
  room.markRead(2);
  await clock.advance(1_000);
  for (const upto of [3, 4, 5]) room.markRead(upto);
  await clock.advance(1_000);
  assert.equal(answeredRequests.length, 1, "one at a time");
  answeredRequests[0]();
  await runPendingTasks();
  room.markRead(7);
  await clock.advance(1_000);
  const sentReadSeqs = server.sent("read").map(({ upto }) => upto);
  assert.deepEqual([sentReadSeqs[0], sentReadSeqs.at(-1), sentReadSeqs.length], [2, 7, 2]);
});

test("10,000 requests of one moment cost a few looks at each", async (t) => {
  const { chat } = await startChat(t, new LogServer());
  let urgencyCalls = 0;
  const countedUrgency = () => ++urgencyCalls;
  const requestReceipt = () => chat.scheduler.request(() => ({ type: "received" }), countedUrgency, "receipts");
  const requests = Array.from({ length: 10_000 }, () => requestReceipt().catch(({ code }) => code));
  await runPendingTasks();
  assert.ok(urgencyCalls < 100_000, `${urgencyCalls} looks`);
  chat.close();
  assert.ok((await Promise.all(requests)).includes("offline"));
});

test("an inbox that never knows the head is asked less and less often", async (t) => {
  const server = new LogServer();
  server.fill("#general", 3);
  server.fill("#other", 1);
  const { chat, clock } = await startChat(t, server);
  t.after(chat.conversation("#general").messages.subscribe(() => {}));
  await runPendingTasks();
  const { summary } = server;
  server.summary = (id) => ({ ...summary.call(server, id), ...(id === "#general" && { head: 3 }) });
  server.message("#general", "four");
  await runPendingTasks();
  server.message("#new", "one");
  await clock.advance(60_000);
  const listRequestsBefore = server.sent("conversations").length;
  assert.ok(listRequestsBefore < 12, `${listRequestsBefore} times within a minute`);
  delete server.summary;
  await clock.advance(60_000);
  assert.deepEqual(
    chat.conversations.getSnapshot().map(({ id }) => id),
    ["#new", "#general", "#other"],
  );
  const listRequestsAfter = server.sent("conversations").length;
  await clock.advance(600_000);
  assert.equal(server.sent("conversations").length, listRequestsAfter, "nothing is left to be found out");
});

test("pages of the log that lead nowhere and say `more` end, and the list is loaded anew", async (t) => {
  const server = new LogServer();
  server.fill("#general", 3);
  const { chat, clock, errors } = await startChat(t, server);
  const room = chat.conversation("#general");
  t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  server.on("sync", ({ conversation }) => {
    return { conversation, events: server.logs.get(conversation).slice(0, 1), head: 9, more: true };
  });
  server.say({ ...server.logs.get("#general")[0], seq: 9, key: "nine" });
  await clock.advance(60_000);
  assert.equal(server.sent("sync").length, 3);
  assert.equal(server.sent("history").length, 2);
  assert.deepEqual([errors, room.messages.getSnapshot().length], [[], 3]);
});

test("background requests that get no answer end the connection, and the next one asks again", async (t) => {
  const server = new LogServer();
  for (let n = 0; n < 6; n++) server.fill(`#room${n}`, 3);
  let ignored = 0;
  server.on("history", (frame) => (ignored++ < 4 ? undefined : server.history(frame)));
  const { chat, clock } = await startChat(t, server);
  const rooms = Array.from({ length: 6 }, (_, n) => chat.conversation(`#room${n}`));
  for (const room of rooms) t.after(room.messages.subscribe(() => {}));
  await clock.advance(29_000);
  assert.equal(server.sockets.length, 1);
  await clock.advance(30_000);
  assert.deepEqual([server.sockets.length, chat.status.getSnapshot().state], [2, "online"]);
  assert.deepEqual([...new Set(rooms.map((room) => room.state.getSnapshot()))], ["ready"]);
});
