// Bots with 1,000 and 2,000 conversations that all have new messages, on a production server with default limits.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startBusyServer, runKilledBot, runOutage } from "./scale.js";

for (const count of [1_000, 2_000]) {
  test(`${count} conversations with news after an outage`, async (t) => {
    const { online, caughtUp, frames, state } = await runOutage(t, await startBusyServer(t, count));
    t.diagnostic(
      `online in ${Math.round(online)} ms, caught up in ${Math.round(caughtUp)} ms, ${frames} frames a second`,
    );
    assert.equal(state, "online");
    assert.ok(online < 30_000 && caughtUp < 60_000 && frames <= 50);
  });
}

test("300 conversations with news, where 20 frames a second are allowed", async (t) => {
  const slow = { SWITCHBOARD_LIMITS_FRAMES_PER_CONNECTION: "20", SWITCHBOARD_LIMITS_HELLO_FRAME: "2000" };
  const { online, caughtUp, frames, state } = await runOutage(t, await startBusyServer(t, 300, slow));
  t.diagnostic(
    `online in ${Math.round(online)} ms, caught up in ${Math.round(caughtUp)} ms, ${frames} frames a second`,
  );
  assert.equal(state, "online");
  assert.ok(online < 10_000 && frames <= 10);
});

test("a bot with 1,000 conversations is killed while it catches up", async (t) => {
  const { again } = await runKilledBot(t, await startBusyServer(t, 1_000));
  t.diagnostic(`${again} messages heard twice`);
});
