// Tests of invalid arguments, and of what a console shows of the SDK's objects.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { inspect } from "node:util";
import { Worker } from "node:worker_threads";
import { ChatError, connect, UnauthorizedError } from "@switchboard/client";
import { command, mintToken, send } from "@switchboard/client/server";
import { fakeServer } from "@switchboard/client/testing";
import { FakeServer, runPendingTasks } from "./fake-socket.js";
import { refusedAnswer, startOutboxChat, storedAnswer } from "./outbox-support.js";

const circularData = {};
circularData.itself = circularData;
const UNSERIALIZABLE_DRAFTS = [{ text: "hi", data: { amount: 1n } }, { data: circularData }];

const failsAsInvalid = (sentence) => (error) => {
  assert.ok(error instanceof ChatError, inspect(error));
  assert.deepEqual([error.code, error.retryable], ["invalid", false]);
  assert.match(error.message, sentence);
  return true;
};

test("`connect` says what is wrong with an address, and that it needs options", () => {
  const user = { user: "alice" };
  for (const url of ["chat.example", "localhost:9501", "ftp://chat.example", "", undefined])
    assert.throws(() => connect(url, user), failsAsInvalid(/no URL of a server/));
  assert.throws(() => connect("https://chat.example"), failsAsInvalid(/`token` or a `user`/));
});

test("a message that is not JSON fails as any other does, and is not sent", async (t) => {
  const server = new FakeServer().on("send", () => storedAnswer(1));
  const { room, errors } = await startOutboxChat(t, server);
  for (const draft of UNSERIALIZABLE_DRAFTS) {
    const outgoing = room.send(draft);
    await assert.rejects(outgoing, failsAsInvalid(/this message is not JSON/));
    assert.deepEqual([outgoing.state.getSnapshot(), outgoing.error.code], ["failed", "invalid"]);
    outgoing.retry();
    await assert.rejects(outgoing, { code: "invalid" });
    outgoing.discard();
    await assert.rejects(room.edit(1, draft), failsAsInvalid(/not JSON/));
  }
  await runPendingTasks();
  assert.deepEqual([server.sent("send"), errors], [[], []]);
});

test("what is neither a text nor a draft is refused by the server, and throws nothing", async (t) => {
  const chat = fakeServer().connect("alice");
  t.after(() => chat.close());
  const room = chat.conversation("@bob");
  for (const draft of [undefined, null, 5, {}, { data: undefined }, [], () => {}]) {
    await assert.rejects(room.send(draft), { name: "ChatError", code: "bad_field" });
    await assert.rejects(room.edit(1, draft), { name: "ChatError", code: "bad_field" });
  }
});

test("a back end's mistakes are no failures of the network: they are not tried again", async () => {
  const access = { url: "http://127.0.0.1:1", key: "sbk_key", to: "@alice", text: "hi" };
  for (const url of ["chat.example", "http://", undefined])
    await assert.rejects(send({ ...access, url }), failsAsInvalid(/no URL of a server/));
  for (const draft of UNSERIALIZABLE_DRAFTS)
    await assert.rejects(send({ ...access, ...draft }), failsAsInvalid(/not JSON/));
  for (const key of ["two\nlines", "", undefined])
    await assert.rejects(send({ ...access, key }), (error) => {
      assert.doesNotMatch(error.message, /lines/);
      return failsAsInvalid(/`key` is neither/)(error);
    });
  for (const timeout of [NaN, -1, "1s"]) {
    await assert.rejects(send({ ...access, timeout }), failsAsInvalid(/milliseconds/));
    await assert.rejects(command({ ...access, timeout }, "conversations", {}), failsAsInvalid(/milliseconds/));
  }
  await assert.rejects(mintToken("short secret", { user: "alice" }), failsAsInvalid(/32 bytes/));
  await assert.rejects(mintToken(undefined, { user: "alice" }), failsAsInvalid(/32 bytes/));
  await assert.rejects(mintToken("x".repeat(32)), failsAsInvalid(/needs a user/));
});

test("the server for tests has no rooms, and says so as the real one does", () => {
  const server = fakeServer();
  for (const look of [server.history, server.log, (id) => server.restore(id, 1)])
    assert.throws(() => look("#nope"), { name: "ChatError", code: "not_found", message: /#nope/ });
  assert.throws(() => server.command("bob", "send", { to: "@alice", data: circularData }), failsAsInvalid(/not JSON/));
});

test("what `send` gives has all that a promise has", async (t) => {
  const server = new FakeServer().on("send", ({ text, id }) =>
    text === "no" ? refusedAnswer("forbidden", { id }) : storedAnswer(7),
  );
  const { room } = await startOutboxChat(t, server);
  const heardErrors = [];
  assert.equal((await room.send("yes").finally(() => heardErrors.push("finally"))).seq, 7);
  assert.equal((await room.send("yes").catch(() => heardErrors.push("catch"))).seq, 7);
  assert.equal(await room.send("no").catch(({ code }) => code), "forbidden");
  await assert.rejects(
    room.send("no").finally(() => heardErrors.push("finally")),
    { code: "forbidden" },
  );
  const [given, lost] = await Promise.allSettled([room.send("yes"), room.send("no")]);
  assert.deepEqual([given.value.seq, lost.reason.code, heardErrors], [7, "forbidden", ["finally", "finally"]]);
});

test("a message that fails and that nobody waits for is no unhandled rejection", async () => {
  const workerProgram = `
    const { fakeServer } = await import(${JSON.stringify(import.meta.resolve("@switchboard/client/testing"))});
    const chat = fakeServer().connect("alice");
    const failing = ["", undefined, { data: { amount: 1n } }].map((draft) => chat.conversation("#nope").send(draft));
    await Promise.allSettled(failing.map(({ acked }) => acked));
    const late = chat.conversation("@bob").send("");
    const failed = new Promise((done) => late.state.subscribe((state) => state === "failed" && done()));
    await failed;
    chat.close();`;
  // With an unhandled rejection the worker would exit with 1.
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(workerProgram)}`));
  assert.deepEqual(await once(worker, "exit"), [0]);
});

test("consoles show the names of errors, and what `send` gives", async (t) => {
  const error = new ChatError({ code: "offline", message: "no connection", retryable: true });
  assert.match(inspect(error), /^ChatError: no connection\n/);
  assert.match(error.stack, /^ChatError: no connection\n/);
  assert.match(inspect(new UnauthorizedError()), /^UnauthorizedError: nobody is signed in\n/);
  const chat = fakeServer().connect("alice");
  t.after(() => chat.close());
  assert.match(inspect(chat.conversation("@bob").send("hi"), { depth: 0 }), /^\w+ \[Outgoing\] /);
});
