// The storage of unacknowledged messages: its scopes, and the notices to other tabs.

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { test } from "node:test";
import { IDBFactory } from "fake-indexeddb";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";
import {
  keepProcessAlive,
  jwt,
  memoryStorage,
  refusedAnswer,
  SCOPE,
  startOutboxChat,
  storedAnswer,
} from "./outbox-support.js";
import { until } from "./support.js";

test("the option `outbox`: a storage of the app's own is used, and `null` keeps in memory only", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const server = new FakeServer().on("send", () => undefined);
  const storage = memoryStorage();
  const withOwnStorage = await startOutboxChat(t, server, { outbox: storage });
  const sent = withOwnStorage.room.send({ text: "hi", data: { n: 1 }, replyTo: 3 });
  await runPendingTasks();
  assert.deepEqual(storage.all(), [
    {
      scope: SCOPE,
      text: "hi",
      data: { n: 1 },
      replyTo: 3,
      key: sent.key,
      to: "#general",
      time: withOwnStorage.clock.wall(),
    },
  ]);
  const withoutStorage = await startOutboxChat(t, server, { outbox: null });
  withoutStorage.room.send("nowhere");
  await runPendingTasks();
  assert.equal((await indexedDB.databases()).length, 0);
  const withBrowserStorage = await startOutboxChat(t, server, { outbox: undefined });
  withBrowserStorage.room.send("in IndexedDB");
  await until(
    { getSnapshot: () => 0, subscribe: (l) => withBrowserStorage.chat.outbox.entries.subscribe(l) },
    () => true,
  );
  await runPendingTasks(200);
  assert.equal((await indexedDB.databases()).length, 1);
});

test("tabs agree: what one discards, clears, sends, fails or retries the other knows", async (t) => {
  keepProcessAlive(t);
  const server = new FakeServer();
  const answerByText = new Map();
  server.on("send", ({ text, id }) => (answerByText.has(text) ? { id, ...answerByText.get(text) } : undefined));
  const storage = memoryStorage();
  const texts = ["discarded", "sent", "failed", "retried"];
  const storedEntries = texts.map((text, time) => [text, { key: text, to: "#general", text, time }]);
  storedEntries[3][1].state = "failed";
  storedEntries[3][1].error = { code: "forbidden", message: "no", retryable: false };
  storage.kept.set(SCOPE, new Map(storedEntries));
  const firstTab = await startOutboxChat(t, server, { outbox: storage, maxAge: Infinity });
  server.reachable = false;
  const secondTab = await startOutboxChat(t, server, { outbox: storage, maxAge: Infinity });
  const [here, entryInSecondTab] = [firstTab, secondTab].map(
    ({ room }) =>
      (key) =>
        room.outgoing(key),
  );
  assert.deepEqual(
    texts.map((key) => entryInSecondTab(key)?.state.getSnapshot()),
    ["pending", "pending", "pending", "failed"],
    "also read before the first connection",
  );
  const sentAcked = entryInSecondTab("sent").acked;
  const discardedAcked = entryInSecondTab("discarded").acked;
  const entryByKey = Object.fromEntries(texts.map((key) => [key, entryInSecondTab(key)]));
  const finalStateOf = (key) => until(entryByKey[key].state, (value) => value !== "pending");
  here("discarded").discard();
  await assert.rejects(discardedAcked, { code: "discarded" });
  const [, sends] = [0, server.sent("send")];
  const answerSend = (text, answer) =>
    server.sockets[0].say({ type: "ok", id: sends.find((f) => f.text === text).id, ...answer });
  answerSend("sent", storedAnswer(5));
  assert.equal((await sentAcked).seq, 5);
  answerSend("failed", refusedAnswer("forbidden"));
  assert.equal(await finalStateOf("failed"), "failed");
  here("retried").retry();
  await until(entryByKey.retried.state, (value) => value === "pending");
  await firstTab.chat.outbox.clear();
  await until(secondTab.chat.outbox.entries, (list) => list.length === 0);
  assert.deepEqual(storage.all(), []);
});

test("a tab with an older version says of a retry no time: what is kept has one all the same", async (t) => {
  keepProcessAlive(t);
  const server = new FakeServer().on("send", ({ id }) => refusedAnswer("forbidden", { id }));
  const storage = memoryStorage();
  const { room, clock } = await startOutboxChat(t, server, { outbox: storage });
  const failedMessage = room.send("failed");
  await assert.rejects(failedMessage.acked, { code: "forbidden" });
  server.on("send", () => undefined);
  const channelOfOldVersion = new BroadcastChannel("switchboard.outbox");
  channelOfOldVersion.postMessage({ scope: SCOPE, type: "retried", key: failedMessage.key });
  await until(failedMessage.state, (value) => value === "pending");
  channelOfOldVersion.close();
  room.send("after it");
  await runPendingTasks();
  const textsAndTimes = storage.all().map(({ text, time }) => [text, time]);
  assert.deepEqual(textsAndTimes, [
    ["failed", clock.wall()],
    ["after it", clock.wall() + 1],
  ]);
});

test("a message that another tab took back while this one was reading the storage stays away", async (t) => {
  keepProcessAlive(t);
  const server = new FakeServer().on("send", () => undefined);
  const storage = memoryStorage();
  storage.kept.set(SCOPE, new Map([["k", { key: "k", to: "#general", text: "regretted", time: 0 }]]));
  const firstTab = await startOutboxChat(t, server, { outbox: storage, maxAge: Infinity });
  let answer;
  const storageWasRead = new Promise((resolve) => (answer = resolve));
  const slowStorage = { ...storage, load: async (scope) => (await storageWasRead, scope === SCOPE ? [...before] : []) };
  const before = await storage.load(SCOPE);
  const secondTab = await startOutboxChat(t, server, { outbox: slowStorage, maxAge: Infinity });
  const sendCountBefore = server.sent("send").length;
  firstTab.room.outgoing("k").discard();
  // The other tab is notified over the platform's `BroadcastChannel`.
  const receivingChannel = new BroadcastChannel("switchboard.outbox");
  const messageReceived = new Promise((resolve) => (receivingChannel.onmessage = resolve));
  const sendingChannel = new BroadcastChannel("switchboard.outbox");
  sendingChannel.postMessage({ scope: "none", type: "cleared" });
  await messageReceived;
  [receivingChannel, sendingChannel].forEach((channel) => channel.close());
  answer();
  await runPendingTasks();
  assert.deepEqual([secondTab.room.outgoing("k"), server.sent("send").length], [undefined, sendCountBefore]);
});

test("what is said before the first connection is kept, under the name in the token", async (t) => {
  const server = new FakeServer();
  server.reachable = false;
  const storage = memoryStorage();
  for (const options of [{ token: () => jwt({ sub: "alice" }), user: undefined }, { token: "opaque.but.known" }]) {
    const { chat, room } = await startOutboxChat(t, server, { outbox: storage, ...options });
    room.send("typed while the server was down");
    await runPendingTasks();
    assert.deepEqual(
      storage.all().map(({ scope, text }) => [scope, text]),
      [[SCOPE, "typed while the server was down"]],
    );
    chat.close();
    storage.kept.clear();
  }
});

test("where the server knows the user by another name, one's messages move there, and nobody else's are sent", async (t) => {
  const server = new FakeServer({ user: "shop.alice" }).on("send", () => storedAnswer(1));
  const storage = memoryStorage();
  storage.kept.set(SCOPE, new Map([["k", { key: "k", to: "#general", text: "another alice's", time: 0 }]]));
  const clock = new FakeClock(0);
  server.reachable = false;
  const options = { outbox: storage, token: jwt({ sub: "alice" }), user: undefined, clock };
  const { chat, room } = await startOutboxChat(t, server, options);
  const sent = room.send("mine");
  await runPendingTasks();
  server.reachable = true;
  server.on("send", () => undefined);
  chat.reconnect();
  await runPendingTasks();
  assert.deepEqual(
    storage.all().map(({ scope, text }) => [scope, text]),
    [
      [SCOPE, "another alice's"],
      ["ws://chat.example/v1/ws shop.alice", "mine"],
    ],
  );
  assert.deepEqual(
    server.sent("send").map(({ text }) => text),
    ["mine"],
  );
  assert.equal(room.outgoing("k"), undefined);
  assert.equal(sent.state.getSnapshot(), "pending");
});

test("IndexedDB that closes: it is opened again, and what was said after it is kept", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const openedDatabases = [];
  const realOpen = indexedDB.open.bind(indexedDB);
  indexedDB.open = (...args) => {
    const request = realOpen(...args);
    request.addEventListener("success", () => openedDatabases.push(request.result));
    return request;
  };
  const server = new FakeServer().on("send", () => undefined);
  const { chat, room, errors } = await startOutboxChat(t, server, { outbox: undefined });
  const texts = ["one", "two", "three"];
  const untilStoredTextsAre = async (wanted) => {
    const database = await new Promise(
      (done) => (realOpen("switchboard", 1).onsuccess = ({ target }) => done(target.result)),
    );
    for (;;) {
      const storedEntriesNow = await new Promise(
        (done) =>
          (database.transaction("outbox").objectStore("outbox").getAll().onsuccess = ({ target }) =>
            done(target.result)),
      );
      if (storedEntriesNow.length === wanted.length)
        return assert.deepEqual(storedEntriesNow.map(({ text }) => text).sort(), wanted.sort());
      await runPendingTasks(1);
    }
  };
  room.send(texts[0]);
  await untilStoredTextsAre(texts.slice(0, 1));
  // Closes the database like iOS in the background: without an event, so the next use fails with InvalidStateError.
  openedDatabases.forEach((database) => database.close());
  room.send(texts[1]);
  await untilStoredTextsAre(texts.slice(0, 2));
  // Closes the database with a `close` event, like a browser that clears its data.
  for (const database of openedDatabases) {
    database.close();
    database.onclose?.(new Event("close"));
  }
  room.send(texts[2]);
  await untilStoredTextsAre(texts);
  assert.deepEqual(errors, []);
  chat.close();
});

test("IndexedDB that could not be opened is tried again; that nothing is kept is said once, as `storage`", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const realOpen = indexedDB.open.bind(indexedDB);
  const quotaError = new DOMException("no space", "QuotaExceededError");
  indexedDB.open = () => {
    throw quotaError;
  };
  const server = new FakeServer().on("send", () => undefined);
  const { clock, room, errors } = await startOutboxChat(t, server, { outbox: undefined });
  room.send("one");
  room.send("two");
  await runPendingTasks();
  assert.deepEqual(
    errors.map(({ code, cause }) => [code, cause]),
    [["storage", quotaError]],
  );
  assert.match(errors[0].message, /no space/);
  assert.equal(server.sent("send").length, 2, "they are sent all the same");
  indexedDB.open = realOpen;
  room.send("three");
  await runPendingTasks(200);
  await clock.advance(1_000);
  await runPendingTasks(200);
  const database = await new Promise((done) => {
    indexedDB.open("switchboard", 1).onsuccess = ({ target }) => done(target.result);
  });
  const storedEntriesNow = await new Promise((done) => {
    database.transaction("outbox").objectStore("outbox").getAll().onsuccess = ({ target }) => done(target.result);
  });
  database.close();
  assert.deepEqual(
    storedEntriesNow.map(({ text }) => text).sort(),
    ["one", "three", "two"],
    "and kept when that is possible again",
  );
  indexedDB.open = () => {
    throw quotaError;
  };
  assert.equal(errors.length, 1);
});

test("a storage of the app's that fails is `storage`, with its cause", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memoryStorage();
  storage.broken = new Error("disk full");
  const { chat, room, errors } = await startOutboxChat(t, server, { outbox: storage });
  room.send("hi");
  await runPendingTasks();
  assert.deepEqual(
    errors.map(({ code, cause }) => [code, cause.message]),
    [["storage", "disk full"]],
  );
  await assert.rejects(chat.outbox.clear(), { code: "storage" });
});

test("the database of an open page does not block those who delete it, and is made again", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const server = new FakeServer().on("send", () => undefined);
  const { room, errors } = await startOutboxChat(t, server, { outbox: undefined });
  room.send("one");
  await runPendingTasks(200);
  await new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase("switchboard");
    request.onsuccess = resolve;
    request.onblocked = () => reject(new Error("blocked"));
  });
  room.send("two");
  await runPendingTasks(200);
  assert.deepEqual([(await indexedDB.databases()).map(({ name }) => name), errors], [["switchboard"], []]);
});

test("a database that never opens is given up after ten seconds, reported, and tried again", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const realOpen = indexedDB.open.bind(indexedDB);
  indexedDB.open = () => ({});
  const server = new FakeServer().on("send", () => undefined);
  const { clock, room, errors } = await startOutboxChat(t, server, { outbox: undefined });
  const { key } = room.send("one");
  await clock.advance(21_000);
  assert.deepEqual(
    errors.map(({ code }) => code),
    ["storage"],
  );
  assert.match(errors[0].message, /does not open/);
  indexedDB.open = realOpen;
  room.send("two");
  await runPendingTasks(200);
  assert.deepEqual([(await indexedDB.databases()).length, room.outgoing(key).state.getSnapshot()], [1, "pending"]);
});
