// Bots with many conversations, on a server for production with the limits that it comes with.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect } from "@switchboard/client";
import { Server, until, wire } from "./support.js";

const SECRET = "a secret of the tests that is long enough";
/** Requests at a time of the back end that writes the news. */
const AT_ONCE = 64;

const idOf = (n) => `@bot:user${n}`;

/** A server, and a back end that writes to the bot in the name of so many users. */
export async function busy(t, count, env = {}) {
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET, ...env } });
  const [key] = /sbk_\S+/.exec((await server.cli("key", "create", "shop")).stdout);
  const authorization = { authorization: `Bearer ${key}` };
  const post = (n, text) => server.posts("send", { as: `user${n}`, to: "@bot", text }, authorization);
  /** A message of each user. */
  const news = async (text) => {
    let next = 0;
    const work = async () => {
      while (next < count) await post(next++, text);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  };
  await news("first");
  return { server, news, count, token: server.token("bot") };
}

/** A socket class that notes when frames go out. */
function noting(line) {
  const sent = [];
  class Noting extends line.WebSocket {
    send(data, ...rest) {
      sent.push({ at: performance.now(), type: JSON.parse(data).type });
      super.send(data, ...rest);
    }
  }
  return { WebSocket: Noting, sent };
}

/** The most frames within any second, without `hello`. */
export function peak(frames) {
  const times = frames.filter(({ type }) => type !== "hello").map(({ at }) => at);
  let [most, first] = [0, 0];
  times.forEach((at, n) => {
    while (times[first] <= at - 1_000) first++;
    most = Math.max(most, n - first + 1);
  });
  return most;
}

/** A connection is lost, everybody writes, it comes back. What that took, and what was heard. */
export async function outage(t, { server, news, count, token }) {
  const line = wire();
  const { WebSocket, sent } = noting(line);
  const bot = connect(server.url, { token, outbox: null, WebSocket });
  t.after(() => bot.close());
  const heard = [];
  let enough;
  bot.on("message", ({ message, conversation }) => {
    heard.push(`${conversation.id} ${message.text}`);
    if (heard.length === count) enough?.();
  });
  await bot.ready();
  await until(bot.conversations.hasMore, (more) => !more);
  line.part();
  await until(bot.status, ({ state }) => state === "offline");
  await news("missed");
  sent.length = 0;
  const all = new Promise((resolve) => (enough = resolve));
  line.mend();
  const start = performance.now();
  bot.reconnect();
  await bot.ready();
  const online = performance.now() - start;
  await all;
  const caughtUp = performance.now() - start;
  // Nothing comes twice, and the receipts go out at the same pace.
  await news("live");
  await until(bot.conversations, () => heard.length >= 2 * count);
  assert.deepEqual(
    heard.slice().sort(),
    Array.from({ length: count }, (_, n) => [`${idOf(n)} live`, `${idOf(n)} missed`])
      .flat()
      .sort(),
  );
  return { online, caughtUp, frames: peak(sent), state: bot.status.getSnapshot().state };
}

/** A process of the bot's. `heard` is what it has printed. */
async function startBot(t, { server, token }, file) {
  const script = fileURLToPath(new URL("fixtures/bot.js", import.meta.url));
  const child = spawn(process.execPath, [script, server.url, token, file], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const heard = [];
  const waiting = new Set();
  const lines = createInterface({ input: child.stdout }).on("line", (line) => {
    heard.push(JSON.parse(line));
    for (const look of waiting) look();
  });
  const when = (test) =>
    new Promise((resolve) => {
      const look = () => {
        if (!test(heard)) return;
        waiting.delete(look);
        resolve();
      };
      waiting.add(look);
      look();
    });
  const kill = async () => {
    // What it has printed may be read after its end.
    const gone = once(lines, "close");
    child.kill("SIGKILL");
    await gone;
  };
  return { heard, when, kill };
}

/** A bot is killed while it catches up, and started again: what both runs heard. */
export async function killed(t, place) {
  const { news, count } = place;
  const folder = await mkdtemp(join(tmpdir(), "switchboard-bot-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, "cursors");
  const first = await startBot(t, place, file);
  await first.when((heard) => heard.includes("ready"));
  await news("heard");
  await first.when((heard) => heard.filter(Array.isArray).length === count);
  await first.kill();
  for (const text of ["down 1", "down 2"]) await news(text);
  const second = await startBot(t, place, file);
  await second.when((heard) => heard.filter(Array.isArray).length >= count / 2);
  await second.kill();
  const third = await startBot(t, place, file);
  const told = () => [...second.heard, ...third.heard].filter(Array.isArray);
  const complete = () =>
    new Set(
      told()
        .map(([id, seq]) => `${id} ${seq}`)
        .filter((line) => / [34]$/.test(line)),
    ).size;
  await third.when(() => complete() === 2 * count);
  await third.kill();
  const firstTexts = first.heard.filter(Array.isArray).map(([, , text]) => text);
  assert.ok(
    firstTexts.every((text) => text === "heard"),
    "nothing from before its first run",
  );
  for (const run of [second, third]) {
    const last = new Map();
    for (const [id, seq, text] of run.heard.filter(Array.isArray)) {
      assert.ok(seq > (last.get(id) ?? 0), `${id}: ${seq} after ${last.get(id)}`);
      last.set(id, seq);
      assert.equal(text, ["first", "heard", "down 1", "down 2"][seq - 1], "the same number for the same message");
    }
  }
  const again = told().length - 2 * count;
  return { again };
}
