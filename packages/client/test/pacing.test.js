// Requests that the SDK makes by itself, where there are thousands of them, or answers that lead nowhere.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chatting, LogServer, settle } from "./fake-log.js";

/** A server with 300 conversations that are not read, and the times at which `read` frames come. */
async function unread(t) {
  const server = new LogServer({ page: 400 });
  for (let n = 0; n < 300; n++) server.fill(`#room${n}`, 2);
  const all = await chatting(t, server);
  const times = [];
  server.on("read", ({ conversation, upto }) => {
    times.push(all.clock.now());
    server.read.set(conversation, upto);
    return { conversation, upto };
  });
  const most = () => Math.max(...times.map((at) => times.filter((other) => other >= at && other < at + 1_000).length));
  const markAll = () => all.chat.conversations.getSnapshot().forEach(({ id }) => all.chat.conversation(id).markRead());
  return { server, times, most, markAll, ...all };
}

test("marking 300 conversations read uses at most half of the rate, and tells all of them", async (t) => {
  const { server, chat, clock, times, most, markAll } = await unread(t);
  markAll();
  assert.equal(chat.unread.getSnapshot().messages, 0, "at once on the screen");
  await clock.advance(10_000);
  assert.deepEqual([times.length, server.read.size], [300, 300]);
  assert.ok(most() <= 50, `${most()} frames within a second`);
});

test("300 conversations read without a connection are told with the next one, paced", async (t) => {
  const { server, clock, times, most, markAll, comeBack } = await unread(t);
  await comeBack(markAll);
  await clock.advance(10_000);
  assert.deepEqual([times.length, server.read.size], [300, 300]);
  assert.ok(most() <= 50, `${most()} frames within a second`);
});

test("a `read` that waits for its turn tells what was read until then", async (t) => {
  const server = new LogServer();
  server.fill("#general", 9);
  const { chat, clock } = await chatting(t, server);
  const room = chat.conversation("#general");
  const answers = [];
  server.on("read", (frame, socket) => {
    server.read.set(frame.conversation, frame.upto);
    answers.push(() => socket.say({ type: "ok", id: frame.id, conversation: frame.conversation, upto: frame.upto }));
  });
  room.markRead(2);
  await clock.advance(1_000);
  for (const upto of [3, 4, 5]) room.markRead(upto);
  await clock.advance(1_000);
  assert.equal(answers.length, 1, "one at a time");
  answers[0]();
  await settle();
  room.markRead(7);
  await clock.advance(1_000);
  const told = server.sent("read").map(({ upto }) => upto);
  assert.deepEqual([told[0], told.at(-1), told.length], [2, 7, 2]);
});
