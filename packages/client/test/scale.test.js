// The tests of scale.soak.js with fewer conversations, so that they are short.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startBusyServer, runKilledBot, runOutage } from "./scale.js";

test("a bot with 250 conversations on a production server comes back from an outage, and from being killed", async (t) => {
  const busyServer = await startBusyServer(t, 250);
  const { online, caughtUp, frames, state } = await runOutage(t, busyServer);
  t.diagnostic(
    `online in ${Math.round(online)} ms, caught up in ${Math.round(caughtUp)} ms, ${frames} frames a second`,
  );
  assert.equal(state, "online");
  assert.ok(frames <= 50, `${frames} frames within a second`);
  const { again } = await runKilledBot(t, await startBusyServer(t, 150));
  t.diagnostic(`${again} messages heard twice`);
});
