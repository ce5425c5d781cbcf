// How the SDK handles the wire vectors of testdata/protocol, which the tests of all clients read.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { connect } from "@switchboard/client";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";

const VECTORS_DIRECTORY = new URL("../../../testdata/protocol/", import.meta.url);

/** The fields of the answer to a write. */
const STORED_FIELDS = { conversation: "#r", seq: 99, at: "2026-11-24T17:54:59.000Z" };

/** For each file of wire vectors, the function that checks one of its cases. */
const CHECKS_BY_FILE = {
  "ids.json": checkId,
  "texts.json": checkText,
  "strings.json": checkString,
  "numbers.json": checkNumber,
  "commands.json": checkCommand,
  "bad-commands.json": checkBadCommand,
  "frames.json": checkFrame,
  "errors.json": checkError,
  "closes.json": checkClose,
  "fold.json": checkFold,
};

test("every file of vectors is read", () => {
  const vectorFiles = readdirSync(VECTORS_DIRECTORY).filter((name) => name.endsWith(".json"));
  assert.deepEqual(vectorFiles.sort(), Object.keys(CHECKS_BY_FILE).sort());
});

for (const [file, check] of Object.entries(CHECKS_BY_FILE)) {
  const { cases } = JSON.parse(readFileSync(new URL(file, VECTORS_DIRECTORY), "utf8"));
  for (const vector of cases) test(`${file}: ${vector.name}`, (t) => check(vector, t));
}

/** A connected chat on a scripted server; closed after the test. */
async function startOnlineChat(t, server, options = {}) {
  const clock = new FakeClock();
  const { WebSocket } = server;
  const user = server.welcome.user;
  const chat = connect("ws://chat.example", { user, outbox: null, WebSocket, clock, ...options });
  t.after(() => chat.close());
  chat.start();
  await runPendingTasks();
  assert.equal(chat.status.getSnapshot().state, "online");
  return { chat, clock, state: () => chat.status.getSnapshot() };
}

/** A server with a room of this user. */
function serverWithRoom({ messages = [], head = 0, user = "zoe" } = {}) {
  const summary = { conversation: "#r", role: "member", members: 2, head, at: "2026-11-24T17:54:00.000Z" };
  const server = new FakeServer({ user, conversations: [{ ...summary, read: head, received: head, unread: 0 }] });
  server.on("history", () => ({ conversation: "#r", messages, head, more: false }));
  server.on("sync", () => ({ conversation: "#r", events: [], head, more: false }));
  return server;
}

async function checkId({ kind, value, valid, by, canonical }, t) {
  if (kind !== "target" || !valid) return;
  const { chat } = await startOnlineChat(t, new FakeServer({ user: by }));
  // The SDK refuses a direct conversation of two other users itself; the server would answer `not_found`.
  const otherUsers = canonical.startsWith("@") && !canonical.slice(1).split(":").includes(by);
  if (otherUsers) assert.throws(() => chat.conversation(value), { code: "invalid" });
  else assert.equal(chat.conversation(value).id, canonical);
}

function checkText({ kind, value, folded }) {
  if (kind === "emoji" && folded !== undefined) assert.equal(value.replaceAll("\ufe0f", ""), folded);
}

function checkString({ json, valid, value, well_formed: wellFormed }) {
  const parsedValue = JSON.parse(json);
  if (valid) assert.equal(parsedValue, value);
  else if (parsedValue.toWellFormed) assert.equal(parsedValue.toWellFormed(), wellFormed);
}

function checkNumber({ json, valid, value }) {
  const parsedValue = JSON.parse(json);
  assert.equal(Number.isSafeInteger(parsedValue) && parsedValue >= 0, valid);
  if (valid) assert.ok(parsedValue === value);
}

function checkCommand({ frame }) {
  assert.deepEqual(JSON.parse(JSON.stringify(frame)), frame);
}

function checkBadCommand({ json, code }) {
  let frame;
  try {
    frame = JSON.parse(json);
  } catch {
    // The text is not JSON, so it is no frame.
  }
  assert.equal(frame?.type === undefined, code === "bad_frame");
}

/** Checks that the chat still works after this frame of the server. */
async function checkFrame({ frame }, t) {
  const server = serverWithRoom();
  const { chat, state } = await startOnlineChat(t, server);
  const room = chat.conversation("#r");
  t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  if (frame.type !== "welcome") server.say(frame);
  await runPendingTasks();
  if (frame.type !== "bye") assert.equal(state().state, "online");
  let renamed = false;
  server.on("rename", () => ((renamed = true), STORED_FIELDS));
  room.rename("R").catch(() => {});
  await runPendingTasks();
  assert.ok(renamed || frame.type === "bye");
}

/** Checks that a command with a retryable refusal is sent again after the server's delay. */
async function checkError({ frame: { id: _, ...error }, again }, t) {
  const server = serverWithRoom();
  server.on("rename", () => (server.sent("rename").length === 1 ? error : STORED_FIELDS));
  const { chat, clock } = await startOnlineChat(t, server);
  const outcome = chat
    .conversation("#r")
    .rename("R")
    .then(
      () => undefined,
      (error) => error,
    );
  await runPendingTasks();
  if (again) await clock.advance(error.retry_after);
  const failedError = await outcome;
  assert.equal(server.sent("rename").length, again ? 2 : 1);
  if (again) return assert.equal(failedError, undefined);
  assert.deepEqual([failedError.code, failedError.retryable, failedError.message], [error.code, false, error.message]);
  assert.equal(failedError.retryAfter, error.retry_after);
}

async function checkClose({ code, reconnect, before, after }, t) {
  const server = new FakeServer();
  // If there is a token function, the SDK requests another token once. Without a function, a wrong token is final.
  const { clock, state } = await startOnlineChat(
    t,
    server,
    code === 4401 ? { user: undefined, token: () => "a.b.c" } : {},
  );
  if (before) server.say(before);
  server.cut(code);
  await runPendingTasks();
  const { retryIn } = state();
  if (!reconnect) return assert.equal(retryIn, undefined, "it is final");
  if (after !== undefined) assert.ok(retryIn >= after, `${retryIn} < ${after}`);
  await clock.advance(retryIn);
  assert.equal(state().state, "online");
}

async function checkFold({ events, messages, page, head, restart }, t) {
  const server = serverWithRoom({ messages: page, head });
  const { chat } = await startOnlineChat(t, server);
  const room = chat.conversation("#r");
  t.after(room.messages.subscribe(() => {}));
  await runPendingTasks();
  if (restart) server.on("history", () => ({ conversation: "#r", messages: [], head: restart, more: false }));
  server.say(...events);
  await runPendingTasks();
  assert.deepEqual(toWireForm(room.messages.getSnapshot()), toWireForm(messages));
}

/** Messages without the fields that the SDK adds, with the protocol's names. As entries, because `__proto__` is a valid key. */
function toWireForm(messages) {
  return messages.map(({ id: _, kind, state, type, conversation, replyTo, reply_to, reactions, ...rest }) => ({
    ...rest,
    ...((replyTo ?? reply_to) && { reply_to: replyTo ?? reply_to }),
    reactions: Object.entries(reactions ?? {}).sort(),
  }));
}
