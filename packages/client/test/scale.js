// Bots with many conversations, on a production server with the default limits.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect } from "@switchboard/client";
import { Server, until, connectionGroup } from "./support.js";

const SECRET = "a secret of the tests that is long enough";
/** Concurrent requests of the back end that sends the messages. */
const CONCURRENT_REQUESTS = 64;

const conversationOfUser = (n) => `@bot:user${n}`;

/** A server, and a back end that sends messages to the bot in the name of `count` users. */
export async function startBusyServer(t, count, env = {}) {
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET, ...env } });
  const authorization = { authorization: `Bearer ${await server.createKey("shop")}` };
  const sendToBot = (n, text) => server.posts("send", { as: `user${n}`, to: "@bot", text }, authorization);
  /** Sends one message in the name of each user. */
  const sendFromAllUsers = async (text) => {
    let next = 0;
    const sendNext = async () => {
      while (next < count) await sendToBot(next++, text);
    };
    await Promise.all(Array.from({ length: CONCURRENT_REQUESTS }, sendNext));
  };
  await sendFromAllUsers("first");
  return { server, news: sendFromAllUsers, count, token: server.token("bot") };
}

/** A socket class that records when frames are sent. */
function recordFrames(line) {
  const sentFrames = [];
  class RecordingWebSocket extends line.WebSocket {
    send(data, ...rest) {
      sentFrames.push({ at: performance.now(), type: JSON.parse(data).type });
      super.send(data, ...rest);
    }
  }
  return { WebSocket: RecordingWebSocket, sent: sentFrames };
}

/** The most frames within any second, without `hello`. */
export function peakPerSecond(frames) {
  const frameTimes = frames.filter(({ type }) => type !== "hello").map(({ at }) => at);
  let [most, first] = [0, 0];
  frameTimes.forEach((at, n) => {
    while (frameTimes[first] <= at - 1_000) first++;
    most = Math.max(most, n - first + 1);
  });
  return most;
}

/** Cuts the connection, sends a message of each user, and reconnects. Returns the duration and the received messages. */
export async function runOutage(t, { server, news, count, token }) {
  const connections = connectionGroup();
  const { WebSocket, sent } = recordFrames(connections);
  const bot = connect(server.url, { token, outbox: null, WebSocket });
  t.after(() => bot.close());
  const heardMessages = [];
  let resolveAllMissedReceived;
  bot.on("message", ({ message, conversation }) => {
    heardMessages.push(`${conversation.id} ${message.text}`);
    if (heardMessages.length === count) resolveAllMissedReceived?.();
  });
  await bot.ready();
  await until(bot.conversations.hasMore, (more) => !more);
  connections.goOffline();
  await until(bot.status, ({ state }) => state === "offline");
  await news("missed");
  sent.length = 0;
  const allMissedReceived = new Promise((resolve) => (resolveAllMissedReceived = resolve));
  connections.goOnline();
  const start = performance.now();
  bot.reconnect();
  await bot.ready();
  const msUntilOnline = performance.now() - start;
  await allMissedReceived;
  const msUntilCaughtUp = performance.now() - start;
  // Later messages arrive once each, and their receipts are within the same rate of frames.
  await news("live");
  await until(bot.conversations, () => heardMessages.length >= 2 * count);
  assert.deepEqual(
    heardMessages.slice().sort(),
    Array.from({ length: count }, (_, n) => [`${conversationOfUser(n)} live`, `${conversationOfUser(n)} missed`])
      .flat()
      .sort(),
  );
  return {
    online: msUntilOnline,
    caughtUp: msUntilCaughtUp,
    frames: peakPerSecond(sent),
    state: bot.status.getSnapshot().state,
  };
}

/** Starts a process of the bot. `heard` has the messages that it has printed. */
async function startBot(t, { server, token }, file) {
  const script = fileURLToPath(new URL("fixtures/bot.js", import.meta.url));
  const child = spawn(process.execPath, [script, server.url, token, file], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const printedMessages = [];
  const pendingChecks = new Set();
  const lines = createInterface({ input: child.stdout }).on("line", (line) => {
    printedMessages.push(JSON.parse(line));
    for (const checkPrinted of pendingChecks) checkPrinted();
  });
  const untilPrinted = (test) =>
    new Promise((resolve) => {
      const checkPrinted = () => {
        if (!test(printedMessages)) return;
        pendingChecks.delete(checkPrinted);
        resolve();
      };
      pendingChecks.add(checkPrinted);
      checkPrinted();
    });
  const killAndReadOutput = async () => {
    // The output may be read completely only after the end of the process.
    const outputEnds = once(lines, "close");
    child.kill("SIGKILL");
    await outputEnds;
  };
  return { heard: printedMessages, when: untilPrinted, kill: killAndReadOutput };
}

/** Kills a bot while it catches up, and starts it again. Returns the messages that both runs have received. */
export async function runKilledBot(t, busyServer) {
  const { news, count } = busyServer;
  const folder = await mkdtemp(join(tmpdir(), "switchboard-bot-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, "cursors");
  const first = await startBot(t, busyServer, file);
  await first.when((heard) => heard.includes("ready"));
  await news("heard");
  await first.when((heard) => heard.filter(Array.isArray).length === count);
  await first.kill();
  for (const text of ["down 1", "down 2"]) await news(text);
  const second = await startBot(t, busyServer, file);
  await second.when((heard) => heard.filter(Array.isArray).length >= count / 2);
  await second.kill();
  const third = await startBot(t, busyServer, file);
  const printedAfterRestart = () => [...second.heard, ...third.heard].filter(Array.isArray);
  const hasAllMessages = () =>
    new Set(
      printedAfterRestart()
        .map(([id, seq]) => `${id} ${seq}`)
        .filter((line) => / [34]$/.test(line)),
    ).size;
  await third.when(() => hasAllMessages() === 2 * count);
  await third.kill();
  const firstTexts = first.heard.filter(Array.isArray).map(([, , text]) => text);
  assert.ok(
    firstTexts.every((text) => text === "heard"),
    "nothing from before its first run",
  );
  for (const run of [second, third]) {
    const lastSeqByConversation = new Map();
    for (const [id, seq, text] of run.heard.filter(Array.isArray)) {
      assert.ok(seq > (lastSeqByConversation.get(id) ?? 0), `${id}: ${seq} after ${lastSeqByConversation.get(id)}`);
      lastSeqByConversation.set(id, seq);
      assert.equal(text, ["first", "heard", "down 1", "down 2"][seq - 1], "the same number for the same message");
    }
  }
  const repeatedCount = printedAfterRestart().length - 2 * count;
  return { again: repeatedCount };
}
