// What is sent and not acknowledged: where it is kept, what becomes of it, and what other tabs know of it.

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { IDBFactory } from "fake-indexeddb";
import { ChatError, connect } from "@switchboard/client";
import { FakeClock, FakeServer, settle } from "./fake-socket.js";
import { online, Server, until } from "./support.js";

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const jwt = (claims) => `${part({ alg: "HS256" })}.${part(claims)}.c2lnbmF0dXJl`;

/** A storage of an app's own, which a test can look into and break. */
function memory() {
  const kept = new Map();
  const calls = [];
  const of = (scope) => kept.get(scope) ?? kept.set(scope, new Map()).get(scope);
  const storage = {
    kept,
    calls,
    broken: undefined,
    async load(scope) {
      calls.push(["load", scope]);
      if (storage.broken) throw storage.broken;
      return structuredClone([...of(scope).values()]);
    },
    async put(scope, entry) {
      calls.push(["put", scope, entry.key]);
      if (storage.broken) throw storage.broken;
      of(scope).set(entry.key, structuredClone(entry));
    },
    async delete(scope, key) {
      calls.push(["delete", scope, key]);
      if (storage.broken) throw storage.broken;
      of(scope).delete(key);
    },
    /** All that is kept, whosever it is. */
    all: () => [...kept].flatMap(([scope, entries]) => [...entries.values()].map((entry) => ({ scope, ...entry }))),
  };
  return storage;
}

const SCOPE = "ws://chat.example/v1/ws alice";

/** A chat of alice's on a scripted server, started; ended with the test. */
async function started(t, server, options = {}) {
  const clock = options.clock ?? new FakeClock();
  const { WebSocket } = server;
  const chat = connect("ws://chat.example", { user: "alice", WebSocket, clock, outbox: null, ...options });
  t.after(() => chat.close());
  const errors = [];
  chat.on("error", (error) => errors.push(error));
  chat.start();
  await settle();
  return { chat, clock, errors, room: chat.conversation("#general") };
}

/** Keeps the process alive while a test waits for the channel between tabs, which does not. */
function awake(t) {
  const timer = setInterval(() => {}, 1_000);
  t.after(() => clearInterval(timer));
}

const refused = (code, more = {}) => ({ type: "error", code, message: `it is ${code}`, retryable: false, ...more });
const stored = (seq, more = {}) => ({ conversation: "#general", seq, at: "2026-01-01T00:00:00.000Z", ...more });

test("the option `outbox`: a storage of the app's own is used, and `null` keeps in memory only", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const server = new FakeServer().on("send", () => undefined);
  const storage = memory();
  const own = await started(t, server, { outbox: storage });
  const sent = own.room.send({ text: "hi", data: { n: 1 }, replyTo: 3 });
  await settle();
  assert.deepEqual(storage.all(), [
    { scope: SCOPE, text: "hi", data: { n: 1 }, replyTo: 3, key: sent.key, to: "#general", time: own.clock.wall() },
  ]);
  const none = await started(t, server, { outbox: null });
  none.room.send("nowhere");
  await settle();
  assert.equal((await indexedDB.databases()).length, 0);
  const browsers = await started(t, server, { outbox: undefined });
  browsers.room.send("in IndexedDB");
  await until({ getSnapshot: () => 0, subscribe: (l) => browsers.chat.outbox.entries.subscribe(l) }, () => true);
  await settle(200);
  assert.equal((await indexedDB.databases()).length, 1);
});

test("a message that failed is kept as failed, with its reason and attempts, and not sent by the next page", async (t) => {
  const server = new FakeServer().on("send", ({ id }) => refused("forbidden", { id }));
  const storage = memory();
  const first = await started(t, server, { outbox: storage });
  const sent = first.room.send("angry words");
  await assert.rejects(sent.acked, { code: "forbidden" });
  await settle();
  const [kept] = storage.all();
  assert.deepEqual(
    [kept.state, kept.attempts, kept.error],
    ["failed", 1, { code: "forbidden", message: "it is forbidden", retryable: false }],
  );
  first.chat.close();

  // Meanwhile one would be let: nobody asked.
  server.on("send", () => stored(7));
  const second = await started(t, server, { outbox: storage });
  second.room.messages.subscribe(() => {});
  await settle();
  assert.equal(server.sent("send").length, 1);
  const outgoing = second.room.outgoing(sent.key);
  assert.deepEqual([outgoing.state.getSnapshot(), outgoing.error.code], ["failed", "forbidden"]);
  assert.ok(outgoing.error instanceof ChatError);
  const [shown] = second.room.messages.getSnapshot();
  assert.deepEqual([shown.state, shown.error.message, shown.text], ["failed", "it is forbidden", "angry words"]);
  await assert.rejects(outgoing.acked, { code: "forbidden" });
  outgoing.retry();
  assert.equal((await outgoing).seq, 7);
  await settle();
  assert.deepEqual(
    server.sent("send").map(({ key }) => key),
    [sent.key, sent.key],
  );
  assert.deepEqual(storage.all(), []);
});

test("`maxAge`: what waited for too long fails with `expired`; a retry says it again", async (t) => {
  const server = new FakeServer().on("send", () => stored(1));
  server.reachable = false;
  const storage = memory();
  const clock = new FakeClock();
  const { room, chat } = await started(t, server, { outbox: storage, maxAge: 60_000, clock });
  const sent = room.send("late");
  await clock.advance(59_000);
  assert.equal(sent.state.getSnapshot(), "pending");
  await clock.advance(2_000);
  assert.equal(sent.state.getSnapshot(), "failed");
  await assert.rejects(sent.acked, { code: "expired" });
  assert.deepEqual(storage.all()[0].error.code, "expired");
  sent.retry();
  server.reachable = true;
  chat.reconnect();
  assert.equal((await sent).seq, 1);
});

test("what was typed two days ago and never sent fails with `expired` when the page is opened again", async (t) => {
  const server = new FakeServer();
  server.reachable = false;
  const storage = memory();
  const clock = new FakeClock();
  const first = await started(t, server, { outbox: storage, clock });
  const { key } = first.room.send("the day before yesterday");
  await settle();
  first.chat.close();
  clock.offset += 2 * 86_400_000;
  server.reachable = true;
  const second = await started(t, server, { outbox: storage, clock });
  assert.equal(server.sent("send").length, 0);
  assert.deepEqual([second.room.outgoing(key).error.code, storage.all()[0].state], ["expired", "failed"]);
});

test("a clock that is set back or forward by an hour does not matter to a message of this page", async (t) => {
  for (const hours of [-1, 1]) {
    const server = new FakeServer().on("send", () => stored(1));
    server.reachable = false;
    const clock = new FakeClock();
    const { chat, room } = await started(t, server, { clock });
    const sent = room.send("hi");
    clock.offset += hours * 3_600_000;
    server.reachable = true;
    chat.reconnect();
    assert.equal((await sent).seq, 1);
  }
});

test("`clear()` takes everything back, from the storage too, also after `close()`", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memory();
  storage.kept.set(SCOPE, new Map([["old", { key: "old", to: "#general", text: "old", time: 0 }]]));
  storage.kept.set("another", new Map([["theirs", { key: "theirs", to: "#general", text: "theirs", time: 0 }]]));
  const { chat, room } = await started(t, server, { outbox: storage, maxAge: Infinity });
  const sent = room.send("private");
  await settle();
  assert.equal(storage.all().length, 3);
  assert.deepEqual(
    chat.outbox.entries.getSnapshot().map(({ text }) => text),
    ["old", "private"],
  );
  chat.close();
  await chat.outbox.clear();
  assert.deepEqual(
    storage.all().map(({ key }) => key),
    ["theirs"],
  );
  assert.deepEqual([chat.outbox.entries.getSnapshot(), room.messages.getSnapshot()], [[], []]);
  await assert.rejects(sent.acked, { code: "closed" });
});

test("tabs agree: what one discards, clears, sends, fails or retries the other knows", async (t) => {
  awake(t);
  const server = new FakeServer();
  const answers = new Map();
  server.on("send", ({ text, id }) => (answers.has(text) ? { id, ...answers.get(text) } : undefined));
  const storage = memory();
  const texts = ["discarded", "sent", "failed", "retried"];
  const kept = texts.map((text, time) => [text, { key: text, to: "#general", text, time }]);
  kept[3][1].state = "failed";
  kept[3][1].error = { code: "forbidden", message: "no", retryable: false };
  storage.kept.set(SCOPE, new Map(kept));
  const one = await started(t, server, { outbox: storage, maxAge: Infinity });
  server.reachable = false;
  const other = await started(t, server, { outbox: storage, maxAge: Infinity });
  const [here, there] = [one, other].map(
    ({ room }) =>
      (key) =>
        room.outgoing(key),
  );
  assert.deepEqual(
    texts.map((key) => there(key)?.state.getSnapshot()),
    ["pending", "pending", "pending", "failed"],
    "also read before the first connection",
  );
  const acked = there("sent").acked;
  const taken = there("discarded").acked;
  const entries = Object.fromEntries(texts.map((key) => [key, there(key)]));
  const state = (key) => until(entries[key].state, (value) => value !== "pending");
  here("discarded").discard();
  await assert.rejects(taken, { code: "discarded" });
  const [, sends] = [0, server.sent("send")];
  const reply = (text, answer) =>
    server.sockets[0].say({ type: "ok", id: sends.find((f) => f.text === text).id, ...answer });
  reply("sent", stored(5));
  assert.equal((await acked).seq, 5);
  reply("failed", refused("forbidden"));
  assert.equal(await state("failed"), "failed");
  here("retried").retry();
  await until(entries.retried.state, (value) => value === "pending");
  await one.chat.outbox.clear();
  await until(other.chat.outbox.entries, (list) => list.length === 0);
  assert.deepEqual(storage.all(), []);
});

test("a message that another tab took back while this one was reading the storage stays away", async (t) => {
  awake(t);
  const server = new FakeServer().on("send", () => undefined);
  const storage = memory();
  storage.kept.set(SCOPE, new Map([["k", { key: "k", to: "#general", text: "regretted", time: 0 }]]));
  const one = await started(t, server, { outbox: storage, maxAge: Infinity });
  let answer;
  const read = new Promise((resolve) => (answer = resolve));
  const slow = { ...storage, load: async (scope) => (await read, scope === SCOPE ? [...before] : []) };
  const before = await storage.load(SCOPE);
  const other = await started(t, server, { outbox: slow, maxAge: Infinity });
  const sends = server.sent("send").length;
  one.room.outgoing("k").discard();
  // The other tab hears of it over a channel of the platform's.
  const heard = new BroadcastChannel("switchboard.outbox");
  const marker = new Promise((resolve) => (heard.onmessage = resolve));
  const speaker = new BroadcastChannel("switchboard.outbox");
  speaker.postMessage({ scope: "none", type: "cleared" });
  await marker;
  [heard, speaker].forEach((channel) => channel.close());
  answer();
  await settle();
  assert.deepEqual([other.room.outgoing("k"), server.sent("send").length], [undefined, sends]);
});

test("what is said before the first connection is kept, under the name in the token", async (t) => {
  const server = new FakeServer();
  server.reachable = false;
  const storage = memory();
  for (const options of [{ token: () => jwt({ sub: "alice" }), user: undefined }, { token: "opaque.but.known" }]) {
    const { chat, room } = await started(t, server, { outbox: storage, ...options });
    room.send("typed while the server was down");
    await settle();
    assert.deepEqual(
      storage.all().map(({ scope, text }) => [scope, text]),
      [[SCOPE, "typed while the server was down"]],
    );
    chat.close();
    storage.kept.clear();
  }
});

test("where the server knows the user by another name, one's messages move there, and nobody else's are sent", async (t) => {
  const server = new FakeServer({ user: "shop.alice" }).on("send", () => stored(1));
  const storage = memory();
  storage.kept.set(SCOPE, new Map([["k", { key: "k", to: "#general", text: "another alice's", time: 0 }]]));
  const clock = new FakeClock(0);
  server.reachable = false;
  const options = { outbox: storage, token: jwt({ sub: "alice" }), user: undefined, clock };
  const { chat, room } = await started(t, server, options);
  const sent = room.send("mine");
  await settle();
  server.reachable = true;
  server.on("send", () => undefined);
  chat.reconnect();
  await settle();
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
  const opened = [];
  const open = indexedDB.open.bind(indexedDB);
  indexedDB.open = (...args) => {
    const request = open(...args);
    request.addEventListener("success", () => opened.push(request.result));
    return request;
  };
  const server = new FakeServer().on("send", () => undefined);
  const { chat, room, errors } = await started(t, server, { outbox: undefined });
  const texts = ["one", "two", "three"];
  const keptAre = async (wanted) => {
    const database = await new Promise(
      (done) => (open("switchboard", 1).onsuccess = ({ target }) => done(target.result)),
    );
    for (;;) {
      const all = await new Promise(
        (done) =>
          (database.transaction("outbox").objectStore("outbox").getAll().onsuccess = ({ target }) =>
            done(target.result)),
      );
      if (all.length === wanted.length) return assert.deepEqual(all.map(({ text }) => text).sort(), wanted.sort());
      await settle(1);
    }
  };
  room.send(texts[0]);
  await keptAre(texts.slice(0, 1));
  // As iOS does it in the background: without an event, so the next use fails with InvalidStateError.
  opened.forEach((database) => database.close());
  room.send(texts[1]);
  await keptAre(texts.slice(0, 2));
  // As a browser does that clears data.
  for (const database of opened) {
    database.close();
    database.onclose?.(new Event("close"));
  }
  room.send(texts[2]);
  await keptAre(texts);
  assert.deepEqual(errors, []);
  chat.close();
});

test("IndexedDB that could not be opened is tried again; that nothing is kept is said once, as `storage`", async (t) => {
  globalThis.indexedDB = new IDBFactory();
  const open = indexedDB.open.bind(indexedDB);
  const fault = new DOMException("no space", "QuotaExceededError");
  indexedDB.open = () => {
    throw fault;
  };
  const server = new FakeServer().on("send", () => undefined);
  const { room, errors } = await started(t, server, { outbox: undefined });
  room.send("one");
  room.send("two");
  await settle();
  assert.deepEqual(
    errors.map(({ code, cause }) => [code, cause]),
    [["storage", fault]],
  );
  assert.match(errors[0].message, /no space/);
  assert.equal(server.sent("send").length, 2, "they are sent all the same");
  indexedDB.open = open;
  room.send("three");
  await settle(200);
  indexedDB.open = () => {
    throw fault;
  };
  assert.equal(errors.length, 1);
});

test("a storage of the app's that fails is `storage`, with its cause", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memory();
  storage.broken = new Error("disk full");
  const { chat, room, errors } = await started(t, server, { outbox: storage });
  room.send("hi");
  await settle();
  assert.deepEqual(
    errors.map(({ code, cause }) => [code, cause.message]),
    [["storage", "disk full"]],
  );
  await assert.rejects(chat.outbox.clear(), { code: "storage" });
});

test("`discard()` rejects with `discarded`", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { room } = await started(t, server);
  const sent = room.send("hi");
  sent.discard();
  await assert.rejects(sent.acked, { code: "discarded" });
  assert.equal(room.outgoing(sent.key), undefined);
});

test("`send()` after `close()` rejects with `closed`, and is kept nowhere", async (t) => {
  const storage = memory();
  const { chat, room } = await started(t, new FakeServer(), { outbox: storage });
  chat.close();
  const sent = room.send("too late");
  await assert.rejects(sent.acked, { code: "closed" });
  await settle();
  assert.deepEqual([sent.state.getSnapshot(), storage.all()], ["failed", []]);
});

test("what is under way when the chat is closed is kept as it was, for the next page", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memory();
  const { chat, room } = await started(t, server, { outbox: storage });
  const sent = room.send("hi");
  await settle();
  chat.close();
  await assert.rejects(sent.acked, { code: "closed" });
  await settle();
  assert.equal(storage.all()[0].state, undefined);
});

test("`await room.send()` waits for the acknowledgement; `state` is a readable", async (t) => {
  const server = new FakeServer().on("send", () => stored(3));
  const { room } = await started(t, server);
  const sent = room.send("hi");
  const states = [];
  sent.state.subscribe((state) => states.push(state));
  const { conversation, seq, at } = await sent;
  assert.deepEqual([conversation, seq, at], ["#general", 3, "2026-01-01T00:00:00.000Z"]);
  await settle();
  assert.deepEqual(states, ["pending", "sent"]);
  server.on("send", ({ id }) => refused("forbidden", { id }));
  await assert.rejects(async () => await room.send("no"), { code: "forbidden" });
});

test("a message that is held waits beside the log: not sent again, and sent when the log has it", async (t) => {
  const server = new FakeServer().on("send", () => ({ conversation: "#general", held: true }));
  const storage = memory();
  const { chat, clock, room } = await started(t, server, { outbox: storage, maxAge: 60_000 });
  room.messages.subscribe(() => {});
  const sent = room.send("for a moderator");
  await until(sent.state, (state) => state === "held");
  await settle();
  assert.equal(storage.all()[0].state, "held");
  assert.equal(room.messages.getSnapshot().at(-1).state, "held");
  server.cut();
  await clock.advance(2_000);
  assert.equal(server.sent("send").length, 1, "not said again");
  await clock.advance(90_000);
  assert.equal(sent.state.getSnapshot(), "held", "a moderator may take their time");
  chat.close();

  // The next page asks once, with the same key, what became of it.
  server.on("send", () => ({ conversation: "#general", held: true, duplicate: true }));
  const next = await started(t, server, { outbox: storage, clock });
  await settle();
  assert.deepEqual([server.sent("send").length, new Set(server.sent("send").map(({ key }) => key)).size], [2, 1]);
  const again = next.room.outgoing(sent.key);
  server.on("send", ({ id }) => refused("refused", { id }));
  next.chat.close();
  const last = await started(t, server, { outbox: storage, clock });
  await settle();
  assert.equal(again.state.getSnapshot(), "failed");
  assert.equal(last.room.outgoing(sent.key).error.code, "refused");
});

test("`ok.event`: what the server stored stands in place of what was said", async (t) => {
  const server = new FakeServer();
  server.on("history", () => ({ conversation: "#general", messages: [], head: 0, more: false }));
  server.on("send", ({ key }) => ({
    ...stored(1),
    event: { type: "message", ...stored(1), from: "alice", key, text: "call me: [removed]" },
  }));
  const { room } = await started(t, server);
  room.messages.subscribe(() => {});
  await settle();
  const { key } = room.send("call me: 555 0100");
  const [message] = await until(room.messages, ([first]) => first?.state === "sent");
  assert.deepEqual([message.text, message.key, message.seq], ["call me: [removed]", key, 1]);
});

test("half a surrogate is made U+FFFD, in what is sent and in what is shown", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { room } = await started(t, server);
  const text = `${"\u{1f600}".slice(0, 1)} \\ud83d \u{1f600} \n`;
  const wanted = "\ufffd \\ud83d \u{1f600} \n";
  room.send({ text, data: { "\udc00": ["\ud800"] } });
  await settle();
  const [frame] = server.sent("send");
  assert.deepEqual([frame.text, frame.data], [wanted, { "\ufffd": ["\ufffd"] }]);
  assert.equal(room.messages.getSnapshot()[0].text, wanted);
  void room.rename("\ud83d!");
  await settle();
  assert.equal(server.sent("rename")[0].title, "\ufffd!");
});

test("a real server takes a text that was cut inside an emoji", async (t) => {
  const server = await Server.start(t);
  const alice = server.connects(t, "alice", { outbox: null });
  await online(alice);
  await alice.conversation("@bob").send("so sad \u{1f622}".slice(0, -1));
  assert.equal((await server.history("bob", "@alice")).at(-1).text, "so sad \ufffd");
});

test("where the platform has no `crypto`, keys are different all the same", async () => {
  const index = fileURLToPath(new URL("../dist/index.js", import.meta.url));
  const script = `
    Object.defineProperty(globalThis, "crypto", { value: undefined });
    const { connect } = await import(${JSON.stringify(index)});
    const chat = connect("ws://chat.example", { user: "alice", start: false });
    const keys = Array.from({ length: 10_000 }, () => chat.conversation("#general").send("x").key);
    console.log(new Set(keys).size, keys.every((key) => /^[a-z0-9]{20,64}$/.test(key)));
    process.exit();`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script]);
  assert.equal(stdout.trim(), "10000 true");
});
