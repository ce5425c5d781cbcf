// Tests that a released conversation takes little memory.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { startChat, LogServer, runPendingTasks } from "./fake-log.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc");

const ROOM_COUNT = 200;

/** The bytes in use after a garbage collection. */
async function heapSize(server) {
  server.frames.length = 0;
  await runPendingTasks();
  for (let n = 0; n < 4; n++) collectGarbage();
  return process.memoryUsage().heapUsed;
}

async function startChatWithRooms(t, options) {
  const server = new LogServer({ page: 200, limits: { frames_per_connection: 0 } });
  for (let n = 0; n < ROOM_COUNT; n++) {
    server.fill(`#room${n}`, 50);
    for (const event of server.logs.get(`#room${n}`))
      event.text = Buffer.from(`${event.key} ${"x".repeat(2_000)}`).toString();
  }
  const { chat, clock } = await startChat(t, server, options);
  const rooms = Array.from({ length: ROOM_COUNT }, (_, n) => chat.conversation(`#room${n}`));
  const subscribeToRooms = async (someRooms) => {
    const unsubscribes = someRooms.flatMap((room) => [
      room.messages.subscribe(() => {}),
      room.members.subscribe(() => {}),
    ]);
    await runPendingTasks(someRooms.length * 4);
    assert.ok(someRooms.every((room) => room.messages.getSnapshot().length === 50));
    return () => unsubscribes.forEach((stop) => stop());
  };
  return { server, clock, rooms, open: subscribeToRooms };
}

for (const way of ["release()", "five minutes without a subscriber"]) {
  test(`200 rooms that were opened weigh no more than 10 that are open, after ${way}`, async (t) => {
    const { server, clock, rooms, open } = await startChatWithRooms(t);
    // The first run compiles the code and creates shared objects before anything is measured.
    (await open(rooms))();
    for (const room of rooms) room.release();
    const heapWithoutRooms = await heapSize(server);
    const closeTenRooms = await open(rooms.slice(0, 10));
    const heapOfTenRooms = (await heapSize(server)) - heapWithoutRooms;
    closeTenRooms();
    const closeAll = await open(rooms);
    const heapOfAllRooms = (await heapSize(server)) - heapWithoutRooms;
    closeAll();
    if (way === "release()") for (const room of rooms) room.release();
    else await clock.advance(300_000);
    const heapAfterClosing = (await heapSize(server)) - heapWithoutRooms;
    const kilobytes = [heapOfTenRooms, heapOfAllRooms, heapAfterClosing].map((bytes) => Math.round(bytes / 1_024));
    t.diagnostic(`10 open: ${kilobytes[0]} KB, 200 open: ${kilobytes[1]} KB, 200 released: ${kilobytes[2]} KB`);
    assert.ok(heapOfAllRooms > 5 * heapOfTenRooms, "they weigh something while they are open");
    assert.ok(heapAfterClosing < 1.2 * heapOfTenRooms);
  });
}
