// Sends the wire vectors of testdata/protocol to the fake server, which must accept and refuse them like the real one.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fakeServer } from "@switchboard/client/testing";

const readVectors = (file) =>
  JSON.parse(readFileSync(new URL(`../../../testdata/protocol/${file}.json`, import.meta.url), "utf8")).cases;

/** Cases that the fake server cannot check, because JavaScript's JSON parser hides the difference. */
const BEYOND_JSON = [/a field twice/, /name twice/, /to the last digit/];

/** The answer to a frame that is given as text: its type, with the code and field of an error. */
function answerToText(text, { hello = true } = {}) {
  const server = fakeServer();
  return new Promise((resolve) => {
    const socket = new server.WebSocket(server.url);
    socket.onopen = () => {
      if (hello) socket.send('{"type":"hello","user":"zoe"}');
      socket.send(text);
      socket.send('{"type":"ping","id":"after"}');
    };
    const frames = [];
    socket.onmessage = ({ data }) => {
      const { type, code, field, id } = JSON.parse(data);
      if (type === "welcome" && hello) return;
      if (id !== "after") frames.push({ type, code, field });
      else resolve(frames[0] ?? { type });
    };
    socket.onclose = () => resolve(frames[0]);
  });
}

const answerToFrame = (frame) => answerToText(JSON.stringify(frame), { hello: frame.type !== "hello" });
/** Whether a frame is refused because of its content, not because its conversation does not exist. */
const isRefused = ({ code }) => ["bad_field", "bad_frame", "too_large"].includes(code);

for (const { name, json, code, field } of readVectors("bad-commands")) {
  if (BEYOND_JSON.some((pattern) => pattern.test(name))) continue;
  test(`refused: ${name}`, async () => assert.deepEqual(await answerToText(json), { type: "error", code, field }));
}

/** Whether a command belongs to a feature that the server for tests does not have. */
const isOfAbsentFeature = ({ type, until, ban }) =>
  ["settings", "block", "blocks", "report"].includes(type) || until || ban;

for (const { name, frame } of readVectors("commands")) {
  if (isOfAbsentFeature(frame)) continue;
  test(`taken: ${name}`, async () => {
    const answerOfFake = await answerToFrame(frame);
    assert.ok(!isRefused(answerOfFake) && answerOfFake.code !== "unknown_type", JSON.stringify(answerOfFake));
  });
}

/** A command with a name in it. */
const ID_COMMANDS = {
  user: (user) => ({ type: "watch", users: [user] }),
  room: (room) => ({ type: "create", room }),
  conversation: (id) => ({ type: "hello", user: "zoe", cursors: { [id]: 0 } }),
  target: (to) => ({ type: "join", conversation: to }),
};

for (const { name, kind, value, valid } of readVectors("ids")) {
  if (!ID_COMMANDS[kind]) continue;
  test(`id: ${name}`, async () => assert.equal(!isRefused(await answerToFrame(ID_COMMANDS[kind](value))), valid));
}

/** A command with a text in it. */
const TEXT_COMMANDS = {
  text: (text) => ({ type: "send", to: "@zoe", text }),
  key: (key) => ({ type: "send", to: "@zoe", text: "x", key }),
  title: (title) => ({ type: "create", title }),
  emoji: (emoji) => ({ type: "react", conversation: "#x", target: 1, emoji }),
};

for (const { name, kind, value, valid, blank } of readVectors("texts")) {
  if (!TEXT_COMMANDS[kind]) continue;
  const isGood = valid && !(blank && kind !== "key");
  test(`text: ${name}`, async () => assert.equal(!isRefused(await answerToFrame(TEXT_COMMANDS[kind](value))), isGood));
}

for (const { name, json, valid } of readVectors("strings")) {
  const frame = `{"type":"send","to":"@zoe","data":{"x":1},"text":${json}}`;
  test(`string: ${name}`, async () => assert.equal(!isRefused(await answerToText(frame)), valid));
}

for (const { name, json, valid } of readVectors("numbers")) {
  if (BEYOND_JSON.some((pattern) => pattern.test(name))) continue;
  const frame = `{"type":"read","conversation":"#x","upto":${json}}`;
  test(`number: ${name}`, async () => assert.equal(!isRefused(await answerToText(frame)), valid));
}

/** The command that stores this event. */
function commandOf({ type, conversation, seq: _, from: _from, at: _at, ...fields }) {
  if (type === "create") return [type, { room: conversation, ...fields }];
  if (type === "message") return ["send", { to: conversation, ...fields }];
  return [type, { conversation, ...fields }];
}

const withoutTimes = (value) => JSON.parse(JSON.stringify(value, (name, field) => (name === "at" ? undefined : field)));

for (const { name, events, messages, page, restart, client_only: clientOnly } of readVectors("fold")) {
  if (page || restart || clientOnly) continue;
  test(`fold: ${name}`, () => {
    const server = fakeServer();
    const { conversation } = events[0];
    for (const event of events) server.command(event.from, ...commandOf(event));
    assert.deepEqual(withoutTimes(server.history(conversation)), withoutTimes(messages));
  });
}
