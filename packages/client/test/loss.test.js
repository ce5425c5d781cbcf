// Tests of how the SDK recovers from lost connections of every kind.

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { ChatError, connect } from "@switchboard/client";
import { testOnBothServers, untilOnline, Server, untilTexts, until } from "./support.js";

const SECRET = "a secret of the tests that is long enough";
const PRODUCTION_SERVER_OPTIONS = { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } };

const untilOffline = (chat) => until(chat.status, ({ state }) => state === "offline");

/** A chat that is closed after the test. */
function startChat(t, ...args) {
  const chat = connect(...args);
  t.after(() => chat.close());
  return chat;
}

testOnBothServers("a server killed while two people send: each message once, in one order", async (t, Server) => {
  const server = await Server.start(t);
  const [alice, bob] = ["alice", "bob"].map((name) => server.connects(t, name));
  const rooms = [alice, bob].map((chat) => chat.conversation("#general"));
  await Promise.all(rooms.map((room) => until(room.messages, (list) => list.length === 3)));
  const sends = [];
  for (let n = 0; n < 60; n++) {
    for (const room of rooms) sends.push(room.send(`line ${n}`));
    if (n === 20) await sends[10].acked;
    if (n === 30) await server.kill();
  }
  await Promise.all([alice, bob].map(untilOffline));
  await server.start();
  await Promise.all(sends.map((sent) => sent.acked));
  const shownLists = await Promise.all(
    rooms.map((room) => until(room.messages, (list) => list.length === 123 && list.every((m) => m.state === "sent"))),
  );
  assert.deepEqual(shownLists[0], shownLists[1]);
  for (const name of ["alice", "bob"]) {
    const ownMessages = shownLists[0]
      .slice(3)
      .filter((m) => m.from === name)
      .map((m) => m.text);
    assert.deepEqual(
      ownMessages,
      Array.from({ length: 60 }, (_, n) => `line ${n}`),
      "in the order in which they were said",
    );
  }
});

testOnBothServers("too much was missed: the list is rebuilt, and that is told once", async (t, Server) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_REPLAY: "50" } });
  const connections = server.connectionGroup();
  const alice = server.connects(t, "alice", connections);
  const room = alice.conversation("#general");
  await until(room.messages, (list) => list.length === 3);
  let resyncs = 0;
  room.on("resync", () => resyncs++);
  connections.goOffline();
  await untilOffline(alice);
  for (let n = 0; n < 120; n++) await server.posts("send", { as: "bob", to: "#general", text: `missed ${n}` });
  connections.goOnline();
  await untilOnline(alice);
  const list = await until(room.messages, (list) => list.at(-1)?.text === "missed 119");
  assert.equal(resyncs, 1);
  assert.deepEqual(
    list.map((m) => m.seq),
    list.map((_, n) => list[0].seq + n),
    "no hole",
  );
  while (await room.loadOlder());
  assert.equal(room.messages.getSnapshot().length, 123);
  await server.posts("send", { as: "bob", to: "#general", text: "live again" });
  await until(room.messages, (list) => list.at(-1)?.text === "live again" && list.length === 124);
});

testOnBothServers("whoever listens to every message gets those of a gap, too", async (t, Server) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_REPLAY: "50" } });
  const connections = server.connectionGroup();
  const bot = server.connects(t, "alice", connections);
  const heardTexts = [];
  bot.on("message", ({ message }) => heardTexts.push(message.text));
  await untilOnline(bot);
  connections.goOffline();
  await untilOffline(bot);
  const missedTexts = Array.from({ length: 300 }, (_, n) => `missed ${n}`);
  for (const text of missedTexts) await server.posts("send", { as: "bob", to: "#general", text });
  connections.goOnline();
  const lastMissedArrives = new Promise((resolve) =>
    bot.on("message", ({ message }) => message.text === "missed 299" && resolve()),
  );
  await lastMissedArrives;
  assert.deepEqual(heardTexts, missedTexts);
});

testOnBothServers("more conversations than cursors fit into `hello`: all of them catch up", async (t, Server) => {
  const server = await Server.start(t, {
    env: { SWITCHBOARD_LIMITS_HELLO_FRAME: "250", SWITCHBOARD_LIMITS_PAGE: "8" },
  });
  const connections = server.connectionGroup();
  const bot = server.connects(t, "bot", connections);
  const heardTexts = [];
  bot.on("message", ({ message }) => heardTexts.push(message.text));
  await untilOnline(bot);
  const userNames = Array.from({ length: 20 }, (_, n) => `user${n}`);
  const untilHeard = (wanted) =>
    until(
      { getSnapshot: () => heardTexts, subscribe: (l) => bot.conversations.subscribe(() => l(heardTexts)) },
      () => heardTexts.length === wanted,
      `${wanted} messages`,
    );
  for (const as of userNames) await server.posts("send", { as, to: "@bot", text: `one of ${as}` });
  await untilHeard(20);
  connections.goOffline();
  await untilOffline(bot);
  for (const as of userNames) await server.posts("send", { as, to: "@bot", text: `two of ${as}` });
  connections.goOnline();
  await untilHeard(40);
  assert.equal(new Set(heardTexts).size, 40, "each once");
});

test(
  "a page of the inbox that overtakes a conversation's first message swallows nothing",
  { timeout: 30_000 },
  async (t) => {
    const server = await Server.start(t);
    const heldBackEvents = [];
    /** A socket on which answers arrive before bob's events; answers of a real server may also arrive before earlier events. */
    class OvertakingWebSocket extends WebSocket {
      set onmessage(hear) {
        super.onmessage =
          hear &&
          ((frame) => {
            if (frame.data.includes('"from":"bob"') && !frame.data.includes('"type":"ok"'))
              return void heldBackEvents.push(frame);
            hear(frame);
            if (frame.data.includes('"conversations":[') && frame.data.includes("@bob:bot"))
              setImmediate(() => heldBackEvents.splice(0).forEach(hear));
          });
      }
    }
    const bot = server.connects(t, "bot", { WebSocket: OvertakingWebSocket });
    const heardTexts = [];
    const bothArrive = new Promise((resolve) =>
      bot.on("message", ({ message }) => heardTexts.push(message.text) === 2 && resolve()),
    );
    await untilOnline(bot);
    await server.posts("send", { as: "bob", to: "@bot", text: "overtaken" });
    // The bot does not know this conversation, so it looks it up in the inbox.
    await server.posts("send", { as: "alice", to: "@bot", text: "on time" });
    await bothArrive;
    assert.deepEqual(heardTexts, ["on time", "overtaken"]);
  },
);

testOnBothServers("what was not acknowledged outlives the page", async (t, Server) => {
  const server = await Server.start(t);
  const connections = server.connectionGroup();
  const first = server.connects(t, "alice", connections);
  await until(first.conversation("#general").messages, (list) => list.length === 3);
  connections.goOffline();
  const sentMessages = ["one", "two", "three"].map((text) => first.conversation("#general").send(text));
  assert.deepEqual(
    sentMessages.map(({ state }) => state.getSnapshot()),
    ["pending", "pending", "pending"],
  );
  first.close();
  await assert.rejects(sentMessages[0].acked, { code: "closed" });
  const second = server.connects(t, "alice");
  const list = await until(
    second.conversation("#general").messages,
    (list) => list.length === 6 && list.every((m) => m.state === "sent"),
  );
  assert.deepEqual(
    list.slice(3).map((m) => [m.text, m.key]),
    ["one", "two", "three"].map((text, n) => [text, sentMessages[n].key]),
  );
  const third = server.connects(t, "alice");
  await untilOnline(third);
  assert.equal((await server.history("alice", "#general")).length, 6, "nothing is left to send");
});

test("over the rate: it waits as long as the server says, and keeps the order", async (t) => {
  const server = await Server.start(t, {
    ...PRODUCTION_SERVER_OPTIONS,
    env: { ...PRODUCTION_SERVER_OPTIONS.env, SWITCHBOARD_LIMITS_SENDS_PER_CONNECTION: "4" },
  });
  const alice = startChat(t, server.url, { token: server.token("alice") });
  const room = alice.conversation("@bob");
  const texts = Array.from({ length: 30 }, (_, n) => String(n));
  await Promise.all(texts.map((text) => room.send(text).acked));
  await untilTexts(room, texts);
});

testOnBothServers("a message that is refused fails, with the reason, and can be taken back", async (t, Server) => {
  const server = await Server.start(t);
  const alice = server.connects(t, "alice");
  const room = alice.conversation("@bob");
  await untilOnline(alice);
  const sent = room.send("x".repeat(20_000));
  await assert.rejects(
    sent.acked,
    (error) => error instanceof ChatError && error.code === "too_large" && error.field === "text" && !error.retryable,
  );
  assert.deepEqual(
    room.messages.getSnapshot().map((m) => [m.state, m.error.code]),
    [["failed", "too_large"]],
  );
  sent.discard();
  assert.deepEqual(room.messages.getSnapshot(), []);
});

testOnBothServers("a server that stops says when to come back, and is obeyed", async (t, Server) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_RECONNECT_SPREAD: "1500" } });
  const alice = server.connects(t, "alice");
  await untilOnline(alice);
  // Waits for both at once, because the chat may already try to reconnect when the server has stopped.
  const [{ code, retryIn }] = await Promise.all([untilOffline(alice), server.stop()]);
  assert.equal(code, 1012);
  assert.ok(retryIn >= 0 && retryIn < 1_500 * 1.25, `${retryIn}`);
  // An event of the platform does not shorten the server's delay; a reconnect by the user does.
  await server.start();
  alice.reconnect();
  await untilOnline(alice);
});

testOnBothServers("commands wait for a connection, and are repeated after a loss", async (t, Server) => {
  const server = await Server.start(t);
  const { WebSocket, cut } = server.connectionGroup();
  const alice = server.connects(t, "alice", { WebSocket });
  // The command is called before there is a connection.
  const room = await alice.create({ room: "early", title: "Early" });
  cut();
  await untilOffline(alice);
  await room.rename("Later");
  await until(room.info, (info) => info?.title === "Later");
  alice.close();
  await assert.rejects(room.rename("Too late"), { code: "closed" });
  assert.equal(alice.status.getSnapshot().state, "idle");
});
