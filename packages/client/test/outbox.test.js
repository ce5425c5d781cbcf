// Tests of the outbox, which keeps messages until the server acknowledges them.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ChatError } from "@switchboard/client";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";
import { memoryStorage, refusedAnswer, SCOPE, startOutboxChat, storedAnswer } from "./outbox-support.js";
import { untilOnline, Server, until } from "./support.js";

test("a message that failed is kept as failed, with its reason and attempts, and not sent by the next page", async (t) => {
  const server = new FakeServer().on("send", ({ id }) => refusedAnswer("forbidden", { id }));
  const storage = memoryStorage();
  const firstSession = await startOutboxChat(t, server, { outbox: storage });
  const sent = firstSession.room.send("angry words");
  await assert.rejects(sent.acked, { code: "forbidden" });
  await runPendingTasks();
  const [kept] = storage.all();
  assert.deepEqual(
    [kept.state, kept.attempts, kept.error],
    ["failed", 1, { code: "forbidden", message: "it is forbidden", retryable: false }],
  );
  firstSession.chat.close();

  // The server would accept the message now, but the SDK does not send a failed message again by itself.
  server.on("send", () => storedAnswer(7));
  const secondSession = await startOutboxChat(t, server, { outbox: storage });
  secondSession.room.messages.subscribe(() => {});
  await runPendingTasks();
  assert.equal(server.sent("send").length, 1);
  const outgoing = secondSession.room.outgoing(sent.key);
  assert.deepEqual([outgoing.state.getSnapshot(), outgoing.error.code], ["failed", "forbidden"]);
  assert.ok(outgoing.error instanceof ChatError);
  const [shown] = secondSession.room.messages.getSnapshot();
  assert.deepEqual([shown.state, shown.error.message, shown.text], ["failed", "it is forbidden", "angry words"]);
  await assert.rejects(outgoing.acked, { code: "forbidden" });
  outgoing.retry();
  assert.equal((await outgoing).seq, 7);
  await runPendingTasks();
  assert.deepEqual(
    server.sent("send").map(({ key }) => key),
    [sent.key, sent.key],
  );
  assert.deepEqual(storage.all(), []);
});

test("`maxAge`: what waited for too long fails with `expired`; a retry says it again", async (t) => {
  const server = new FakeServer().on("send", () => storedAnswer(1));
  server.reachable = false;
  const storage = memoryStorage();
  const clock = new FakeClock();
  const { room, chat } = await startOutboxChat(t, server, { outbox: storage, maxAge: 60_000, clock });
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
  const storage = memoryStorage();
  const clock = new FakeClock();
  const firstSession = await startOutboxChat(t, server, { outbox: storage, clock });
  const { key } = firstSession.room.send("the day before yesterday");
  await runPendingTasks();
  firstSession.chat.close();
  clock.offset += 2 * 86_400_000;
  server.reachable = true;
  const secondSession = await startOutboxChat(t, server, { outbox: storage, clock });
  assert.equal(server.sent("send").length, 0);
  // The stored entry stays unchanged, because the tab that sent the message may be retrying it.
  assert.deepEqual([secondSession.room.outgoing(key).error.code, storage.all()[0].state], ["expired", undefined]);
});

test("a clock that is set back or forward by an hour does not matter to a message of this page", async (t) => {
  for (const hours of [-1, 1]) {
    const server = new FakeServer().on("send", () => storedAnswer(1));
    server.reachable = false;
    const clock = new FakeClock();
    const { chat, room } = await startOutboxChat(t, server, { clock });
    const sent = room.send("hi");
    clock.offset += hours * 3_600_000;
    server.reachable = true;
    chat.reconnect();
    assert.equal((await sent).seq, 1);
  }
});

test("`clear()` takes everything back, from the storage too, also after `close()`", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memoryStorage();
  storage.kept.set(SCOPE, new Map([["old", { key: "old", to: "#general", text: "old", time: 0 }]]));
  storage.kept.set("another", new Map([["theirs", { key: "theirs", to: "#general", text: "theirs", time: 0 }]]));
  const { chat, room } = await startOutboxChat(t, server, { outbox: storage, maxAge: Infinity });
  const sent = room.send("private");
  await runPendingTasks();
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

test("`discard()` rejects with `discarded`", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { room } = await startOutboxChat(t, server);
  const sent = room.send("hi");
  sent.discard();
  await assert.rejects(sent.acked, { code: "discarded" });
  assert.equal(room.outgoing(sent.key), undefined);
});

test("`send()` after `close()` rejects with `closed`, and is kept nowhere", async (t) => {
  const storage = memoryStorage();
  const { chat, room } = await startOutboxChat(t, new FakeServer(), { outbox: storage });
  chat.close();
  const sent = room.send("too late");
  await assert.rejects(sent.acked, { code: "closed" });
  await runPendingTasks();
  assert.deepEqual([sent.state.getSnapshot(), storage.all()], ["failed", []]);
});

test("what is under way when the chat is closed is kept as it was, for the next page", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const storage = memoryStorage();
  const { chat, room } = await startOutboxChat(t, server, { outbox: storage });
  const sent = room.send("hi");
  await runPendingTasks();
  chat.close();
  await assert.rejects(sent.acked, { code: "closed" });
  await runPendingTasks();
  assert.equal(storage.all()[0].state, undefined);
});

test("`await room.send()` waits for the acknowledgement; `state` is a readable", async (t) => {
  const server = new FakeServer().on("send", () => storedAnswer(3));
  const { room } = await startOutboxChat(t, server);
  const sent = room.send("hi");
  const shownStates = [];
  sent.state.subscribe((state) => shownStates.push(state));
  const { conversation, seq, at } = await sent;
  assert.deepEqual([conversation, seq, at], ["#general", 3, "2026-01-01T00:00:00.000Z"]);
  await runPendingTasks();
  assert.deepEqual(shownStates, ["pending", "sent"]);
  server.on("send", ({ id }) => refusedAnswer("forbidden", { id }));
  await assert.rejects(async () => await room.send("no"), { code: "forbidden" });
});

test("a message that is held waits beside the log: not sent again, and sent when the log has it", async (t) => {
  const server = new FakeServer().on("send", () => ({ conversation: "#general", held: true }));
  const storage = memoryStorage();
  const { chat, clock, room } = await startOutboxChat(t, server, { outbox: storage, maxAge: 60_000 });
  room.messages.subscribe(() => {});
  const sent = room.send("for a moderator");
  await until(sent.state, (state) => state === "held");
  await runPendingTasks();
  assert.equal(storage.all()[0].state, "held");
  assert.equal(room.messages.getSnapshot().at(-1).state, "held");
  server.cut();
  await clock.advance(2_000);
  assert.equal(server.sent("send").length, 1, "not said again");
  await clock.advance(90_000);
  assert.equal(sent.state.getSnapshot(), "held", "a moderator may take their time");
  chat.close();

  // The next page sends the message once more with the same key, to learn the decision.
  server.on("send", () => ({ conversation: "#general", held: true, duplicate: true }));
  const nextSession = await startOutboxChat(t, server, { outbox: storage, clock });
  await runPendingTasks();
  assert.deepEqual([server.sent("send").length, new Set(server.sent("send").map(({ key }) => key)).size], [2, 1]);
  const restoredMessage = nextSession.room.outgoing(sent.key);
  server.on("send", ({ id }) => refusedAnswer("refused", { id }));
  nextSession.chat.close();
  const lastSession = await startOutboxChat(t, server, { outbox: storage, clock });
  await runPendingTasks();
  assert.equal(restoredMessage.state.getSnapshot(), "failed");
  assert.equal(lastSession.room.outgoing(sent.key).error.code, "refused");
});

test("`ok.event`: what the server stored stands in place of what was said", async (t) => {
  const server = new FakeServer();
  server.on("history", () => ({ conversation: "#general", messages: [], head: 0, more: false }));
  server.on("send", ({ key }) => ({
    ...storedAnswer(1),
    event: { type: "message", ...storedAnswer(1), from: "alice", key, text: "call me: [removed]" },
  }));
  const { room } = await startOutboxChat(t, server);
  room.messages.subscribe(() => {});
  await runPendingTasks();
  const { key } = room.send("call me: 555 0100");
  const [message] = await until(room.messages, ([first]) => first?.state === "sent");
  assert.deepEqual([message.text, message.key, message.seq], ["call me: [removed]", key, 1]);
});

test("half a surrogate is made U+FFFD, in what is sent and in what is shown", async (t) => {
  const server = new FakeServer().on("send", () => undefined);
  const { room } = await startOutboxChat(t, server);
  const text = `${"\u{1f600}".slice(0, 1)} \\ud83d \u{1f600} \n`;
  const wellFormedText = "\ufffd \\ud83d \u{1f600} \n";
  room.send({ text, data: { "\udc00": ["\ud800"] } });
  await runPendingTasks();
  const [frame] = server.sent("send");
  assert.deepEqual([frame.text, frame.data], [wellFormedText, { "\ufffd": ["\ufffd"] }]);
  assert.equal(room.messages.getSnapshot()[0].text, wellFormedText);
  void room.rename("\ud83d!");
  await runPendingTasks();
  assert.equal(server.sent("rename")[0].title, "\ufffd!");
});

test("a real server takes a text that was cut inside an emoji", async (t) => {
  const server = await Server.start(t);
  const alice = server.connects(t, "alice", { outbox: null });
  await untilOnline(alice);
  await alice.conversation("@bob").send("so sad \u{1f622}".slice(0, -1));
  assert.equal((await server.history("bob", "@alice")).at(-1).text, "so sad \ufffd");
});

test("where the platform has no `crypto`, keys are different all the same", async () => {
  const sdkPath = fileURLToPath(new URL("../dist/index.js", import.meta.url));
  const programWithoutCrypto = `
    Object.defineProperty(globalThis, "crypto", { value: undefined });
    const { connect } = await import(${JSON.stringify(sdkPath)});
    const chat = connect("ws://chat.example", { user: "alice", start: false });
    const keys = Array.from({ length: 10_000 }, () => chat.conversation("#general").send("x").key);
    console.log(new Set(keys).size, keys.every((key) => /^[a-z0-9]{20,64}$/.test(key)));
    process.exit();`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", programWithoutCrypto]);
  assert.equal(stdout.trim(), "10000 true");
});
