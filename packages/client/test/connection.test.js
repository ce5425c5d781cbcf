// Connecting, losing the connection and reconnecting, on a scripted server and a clock that the tests move.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ChatError, connect } from "@switchboard/client";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";
import { untilOnline as isOnline, Server, until } from "./support.js";

/** A connected chat of alice on a scripted server; closed after the test. */
async function startOnlineChat(t, server, options = {}) {
  const clock = options.clock ?? new FakeClock();
  const { WebSocket } = server;
  const chat = connect("ws://chat.example", { user: "alice", outbox: null, WebSocket, clock, ...options });
  t.after(() => chat.close());
  chat.start();
  await runPendingTasks();
  return { chat, clock, state: () => chat.status.getSnapshot() };
}

const refusalFrame = (code, message, moreFields = {}) => ({
  type: "error",
  code,
  message,
  retryable: false,
  ...moreFields,
});

/** A server that refuses every `hello` with this error code and close code. */
const refusingServer = (code, close, moreFields) =>
  new FakeServer().on("hello", (_, socket) => {
    if (code) socket.say(refusalFrame(code, `the server says ${code}`, moreFields));
    socket.end(close, "a word");
  });

test("a connection that broke is tried again, and so after every close code that asks for it", async (t) => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 4400, 4401, 4408, 4429, 4499]) {
    const server = new FakeServer();
    const { clock, state } = await startOnlineChat(t, server, { token: () => "a.b.c" });
    assert.equal(state().state, "online");
    server.cut(code);
    await runPendingTasks();
    assert.deepEqual([state().state, state().code], ["offline", code]);
    assert.ok(state().retryIn >= 0, `${code}: ${state().retryIn}`);
    await clock.advance(state().retryIn);
    assert.equal(state().state, "online", `${code}`);
  }
});

test("close codes that forbid it are final, and say why in the server's words", async (t) => {
  for (const [code, close] of [
    ["bad_frame", 1002],
    ["bad_frame", 1007],
    ["bad_frame", 1008],
    ["too_large", 1009],
    ["unauthorized", 4501],
    ["unauthorized", 4502],
    ["banned", 4503],
    ["refused", 4504],
    ["something_new", 4999],
  ]) {
    const server = refusingServer(code, close, { until: "2027-01-01T00:00:00.000Z" });
    const { clock, state } = await startOnlineChat(t, server);
    const { reason, retryIn, error } = state();
    assert.deepEqual([reason, retryIn, error.code], [`the server says ${code}`, undefined, code], `${close}`);
    assert.equal(error.until, "2027-01-01T00:00:00.000Z");
    await clock.advance(3_600_000);
    assert.equal(server.sockets.length, 1, `${close} is final`);
  }
  for (const close of [4501, 4502]) {
    const { state } = await startOnlineChat(t, refusingServer(undefined, close));
    assert.deepEqual([state().error.code, state().reason], ["unauthorized", "a word"], "also without an error frame");
  }
});

test("too fast (4429) is never final: it comes back after the server's retry_after", async (t) => {
  const server = new FakeServer();
  const { clock, state } = await startOnlineChat(t, server);
  server.say({ ...refusalFrame("rate_limited", "too fast"), retryable: true, retry_after: 8_000 });
  server.cut(4429);
  await runPendingTasks();
  assert.ok(state().retryIn >= 8_000 && state().retryIn <= 9_000, `${state().retryIn}`);
  await clock.advance(7_999);
  assert.equal(server.sockets.length, 1);
  await clock.advance(1_001);
  assert.equal(state().state, "online");

  server.cut(4429);
  await runPendingTasks();
  assert.ok(state().retryIn >= 5_000, "a default where the server does not say");
});

test("a real server closes what floods with 4429, and takes it back", async (t) => {
  const server = await Server.start(t, {
    args: ["serve"],
    env: {
      SWITCHBOARD_AUTH_SECRET: "a secret of the tests that is long enough",
      SWITCHBOARD_LIMITS_FRAMES_PER_CONNECTION: "5",
    },
  });
  const chat = connect(server.url, { token: () => server.token("alice"), outbox: null });
  t.after(() => chat.close());
  await isOnline(chat);
  const untilClosed = until(chat.status, ({ state }) => state === "offline");
  while (chat.status.getSnapshot().state === "online") {
    // The server refuses each command as too fast; this app ignores it.
    chat.command("typing", { conversation: "#general" }, { timeout: 1 }).catch(() => {});
    await new Promise((done) => setImmediate(done));
  }
  const { code, retryIn, error, reason } = await untilClosed;
  assert.deepEqual([code, error.code], [4429, "rate_limited"]);
  assert.equal(reason, error.message);
  assert.ok(retryIn >= error.retryAfter && error.retryAfter >= 5_000, `${retryIn}`);
  // The server asks for a longer delay than the test may take; a reconnect by the user need not wait.
  chat.reconnect();
  await isOnline(chat);
});

test("1008 is final, also right after `rate_limited`", async (t) => {
  const server = new FakeServer().on("typing", ({ id }) =>
    refusalFrame("rate_limited", "too fast", { id, retry_after: 10 }),
  );
  const { chat, state } = await startOnlineChat(t, server);
  chat.conversation("#general").typing.set(true);
  await runPendingTasks();
  server.cut(1008);
  await runPendingTasks();
  assert.equal(state().retryIn, undefined);
});

test("a dead connection is found although the wall clock was set back by an hour", async (t) => {
  const server = new FakeServer();
  const { clock, state } = await startOnlineChat(t, server);
  await clock.advance(60_000);
  server.socket.deaf = true;
  clock.offset -= 3_600_000;
  await clock.advance(46_000);
  assert.ok(server.sockets.length > 1, state().state);
});

test("after a sleep, in which only the wall clock goes on, the connection is tried soon", async (t) => {
  const server = new FakeServer();
  const { clock } = await startOnlineChat(t, server);
  await clock.advance(5_000);
  assert.equal(server.sent("ping").length, 0);
  clock.offset += 3_600_000;
  await clock.advance(5_000);
  assert.equal(server.sent("ping").length, 1);
});

/** A network source whose events the test sends. */
function fakeNetwork(visible) {
  const listeners = new Set();
  return {
    visible: () => visible,
    subscribe: (listener) => (listeners.add(listener), () => listeners.delete(listener)),
    tell: (event) => listeners.forEach((listener) => listener(event)),
    listeners,
  };
}

test("when the network is back, what a person looks at connects at once, the rest within a second", async (t) => {
  const reconnectDelays = new Set();
  for (const visible of [true, false]) {
    for (let n = 0; n < 5; n++) {
      const server = new FakeServer();
      const networkSource = fakeNetwork(visible);
      const { chat, clock, state } = await startOnlineChat(t, server, { network: networkSource });
      server.reachable = false;
      server.cut();
      for (let tries = 0; tries < 6; tries++) await clock.advance(state().retryIn ?? 0);
      assert.equal(state().state, "offline");
      server.reachable = true;
      const socketCount = server.sockets.length;
      networkSource.tell("online");
      await runPendingTasks();
      assert.equal(server.sockets.length - socketCount, visible ? 1 : 0);
      const timeBefore = clock.now();
      while (state().state !== "online" && clock.now() - timeBefore < 1_000) await clock.advance(50);
      assert.equal(state().state, "online");
      if (!visible) reconnectDelays.add(clock.now() - timeBefore);
      chat.close();
      assert.equal(networkSource.listeners.size, 0, "it listens no more");
    }
  }
  assert.ok(reconnectDelays.size > 1, "not all at the same time");
});

test("coming to the front asks whether the other side is there, and does not shorten a wait that the server gave", async (t) => {
  const server = new FakeServer();
  const networkSource = fakeNetwork(true);
  const { clock, state } = await startOnlineChat(t, server, { network: networkSource });
  networkSource.tell("visible");
  await runPendingTasks();
  assert.equal(server.sent("ping").length, 1);
  server.socket.deaf = true;
  networkSource.tell("visible");
  await clock.advance(4_900);
  assert.equal(server.sockets.length, 2, "a connection that does not answer within 4 s is replaced");
  assert.equal(state().state, "online");
  server.say({ type: "bye", retry_after: 9_000 });
  server.cut(1012);
  await runPendingTasks();
  networkSource.tell("visible");
  networkSource.tell("online");
  await clock.advance(8_900);
  assert.equal(state().state, "offline");
  await clock.advance(3_000);
  assert.equal(state().state, "online");
});

test("without a page nothing connects until the chat is used", async (t) => {
  const useByName = {
    start: (chat) => chat.start(),
    reconnect: (chat) => chat.reconnect(),
    status: (chat) => chat.status.subscribe(() => {}),
    conversations: (chat) => chat.conversations.subscribe(() => {}),
    messages: (chat) => chat.conversation("#general").messages.subscribe(() => {}),
    info: (chat) => chat.conversation("#general").info.subscribe(() => {}),
    presence: (chat) => chat.presence("bob").subscribe(() => {}),
    on: (chat) => chat.on("message", () => {}),
    roomOn: (chat) => chat.conversation("#general").on("message", () => {}),
    send: (chat) => chat.conversation("#general").send("hi"),
    command: (chat) => chat.conversation("#general").join(),
  };
  for (const [name, use] of Object.entries(useByName)) {
    const server = new FakeServer();
    const options = { user: "alice", outbox: null, WebSocket: server.WebSocket, clock: new FakeClock() };
    const chat = connect("ws://chat.example", options);
    t.after(() => chat.close());
    // Server-side rendering reads the current values of the stores, and unsubscribes at once if it subscribes.
    const room = chat.conversation("#general");
    for (const store of [chat.status, chat.conversations, room.messages, room.info, room.members]) {
      store.getSnapshot();
      store.subscribe(() => {})();
    }
    await runPendingTasks();
    assert.deepEqual([server.sockets.length, chat.status.getSnapshot().state], [0, "idle"], name);
    use(chat);
    await runPendingTasks();
    assert.equal(server.sockets.length, 1, name);
  }
});

test("`start` decides when it connects: at once, or only at `start()`", async (t) => {
  const server = new FakeServer();
  const options = { user: "alice", outbox: null, WebSocket: server.WebSocket, clock: new FakeClock() };
  const startedChat = connect("ws://chat.example", { ...options, start: true });
  await runPendingTasks();
  assert.equal(server.sockets.length, 1);
  const stoppedChat = connect("ws://chat.example", { ...options, start: false });
  t.after(() => [startedChat, stoppedChat].forEach((chat) => chat.close()));
  stoppedChat.status.subscribe(() => {});
  stoppedChat.conversation("#general").send("hi");
  await runPendingTasks();
  assert.equal(server.sockets.length, 1);
  stoppedChat.start();
  stoppedChat.start();
  await runPendingTasks();
  assert.equal(server.sockets.length, 2);
});

test("the browser's build opens nothing where there is no page, and connects at once in one", async () => {
  const sdkPath = fileURLToPath(new URL("../dist/index.js", import.meta.url));
  const programWith = (setup) => `
    ${setup}
    let sockets = 0;
    globalThis.WebSocket = class { constructor() { sockets++; } close() {} };
    const { connect } = await import(${JSON.stringify(sdkPath)});
    const chat = connect("https://chat.example", { token: () => "a.b.c" });
    chat.conversation("#general").messages.getSnapshot();
    await new Promise((done) => setImmediate(done));
    console.log(sockets);
    process.exit();`;
  const runProgram = async (setup) =>
    (await promisify(execFile)(process.execPath, ["--input-type=module", "-e", programWith(setup)])).stdout.trim();
  assert.equal(await runProgram(""), "0");
  assert.equal(await runProgram("globalThis.document = { visibilityState: 'visible', addEventListener() {} };"), "1");
  assert.equal(await runProgram("globalThis.importScripts = () => {};"), "1");
});

test("close() ends what is under way with `closed`, and nothing starts it again", async (t) => {
  const server = new FakeServer().on("rename", () => undefined);
  const { chat, clock } = await startOnlineChat(t, server);
  const renamed = chat.conversation("#general").rename("Title");
  await runPendingTasks();
  chat.close();
  await assert.rejects(renamed, { code: "closed" });
  chat.start();
  chat.reconnect();
  chat.status.subscribe(() => {});
  await clock.advance(120_000);
  assert.deepEqual([server.sockets.length, chat.status.getSnapshot().state], [1, "idle"]);
  assert.equal(clock.timers, 0, "no timer is left");
});

test("`device` is said in `hello`; `debug` tells what happens, without token and text", async (t) => {
  const server = new FakeServer();
  const logLines = [];
  const recordLogLine = (line, ...details) => logLines.push([line, ...details].join(" "));
  const { chat } = await startOnlineChat(t, server, {
    device: "kitchen",
    debug: recordLogLine,
    user: undefined,
    token: "a.secret.c",
  });
  assert.equal(server.sent("hello")[0].device, "kitchen");
  chat.conversation("#general").send("a private text");
  await runPendingTasks();
  server.cut();
  await runPendingTasks();
  for (const wanted of [/connecting/, /→ hello/, /← welcome/, /→ send/, /← ok/, /offline/]) {
    assert.ok(
      logLines.some((line) => wanted.test(line)),
      `${wanted} in ${logLines}`,
    );
  }
  assert.doesNotMatch(logLines.join("\n"), /secret|private/);
});

test("a frame that cannot be read is reported, and the next one is handled", async (t) => {
  const server = new FakeServer();
  const { chat, state } = await startOnlineChat(t, server);
  const errors = [];
  chat.on("error", (error) => errors.push(error));
  server.socket.onmessage({ data: "no JSON" });
  assert.equal(errors[0].code, "internal");
  assert.ok(errors[0].cause instanceof SyntaxError);
  assert.equal(state().state, "online");
});

test("an error prints its text: as a string, as JSON, in a log", async (t) => {
  const { state } = await startOnlineChat(t, refusingServer("unauthorized", 4501));
  const { error } = state();
  assert.ok(error instanceof ChatError);
  assert.equal(String(error), "ChatError: the server says unauthorized");
  assert.match(JSON.stringify(state()), /"message":"the server says unauthorized"/);
});

test("React Native has less of a platform, and it is enough", async () => {
  const sdkPath = fileURLToPath(new URL("../dist/index.js", import.meta.url));
  const programWith = `
    const Real = URL;
    const addresses = [];
    // React Native's URL is read-only, and these globals are missing without a polyfill.
    globalThis.URL = class { #url; constructor(...args) { this.#url = new Real(...args); } get href() { return this.#url.href; } };
    for (const name of ["crypto", "TextEncoder", "TextDecoder", "BroadcastChannel", "indexedDB", "document", "structuredClone",
      "addEventListener", "performance"]) Object.defineProperty(globalThis, name, { value: undefined });
    const hellos = [];
    class Socket {
      constructor(url) { addresses.push(url); setImmediate(() => this.onopen({})); }
      send(text) { hellos.push(JSON.parse(text)); }
      close() {}
    }
    const { connect } = await import(${JSON.stringify(sdkPath)});
    for (const url of ["https://chat.example", "http://chat.example:9501/", "wss://chat.example/chat/?a=b#c", "ws://chat.example/v1/ws"]) {
      const chat = connect(url, { token: () => "a.b.c", device: "t\u00e9l\u00e9phone", WebSocket: Socket });
      chat.start();
      chat.conversation("#general").send("hi");
    }
    await new Promise((done) => setTimeout(done, 0));
    await new Promise(setImmediate);
    console.log(JSON.stringify([addresses, hellos.map(({ type }) => type)]));
    process.exit();`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", programWith]);
  assert.deepEqual(JSON.parse(stdout), [
    [
      "wss://chat.example/v1/ws",
      "ws://chat.example:9501/v1/ws",
      "wss://chat.example/chat/v1/ws?a=b",
      "ws://chat.example/v1/ws",
    ],
    ["hello", "hello", "hello", "hello"],
  ]);
});
