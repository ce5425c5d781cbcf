// Tests that the fake server answers exactly like the real one, and tests the methods that it offers.

import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { fakeServer } from "@switchboard/client/testing";
import { untilOnline, Server, untilTexts, until } from "./support.js";

/** All commands, also refused ones, whose answers are compared: the user, the command and its fields. */
const COMMAND_SCRIPT = [
  ["alice", "send", { to: "@bob", key: "k1", text: "hi" }],
  ["alice", "send", { to: "@bob", key: "k1", text: "hi" }],
  ["alice", "send", { to: "@bob", key: "k1", text: "other" }],
  ["alice", "send", { to: "@carol", key: "k1", text: "hi" }],
  ["bob", "send", { to: "@alice", key: "k1", data: { "": [1, null], a: { b: "c" } }, reply_to: 1 }],
  ["bob", "send", { to: "@alice", key: "k2", text: "x", reply_to: 9 }],
  ["bob", "send", { to: "@alice", key: "k2", text: "" }],
  ["bob", "send", { to: "@alice", key: "k2", text: " \u200b " }],
  ["bob", "send", { to: "@alice", key: "k2", text: "a\0b" }],
  ["bob", "send", { to: "@alice", key: "k2", text: "x".repeat(16_385) }],
  ["bob", "send", { to: "@alice", key: "", text: "x" }],
  ["bob", "send", { to: "@alice", key: "k2", data: [] }],
  ["bob", "send", { to: "bob", text: "x" }],
  ["bob", "send", { to: "@bob:alice", text: "x" }],
  ["bob", "send", { to: "@alice:carol", text: "x" }],
  ["bob", "send", { to: "#nowhere", text: "x" }],
  ["bob", "send", { to: "@alice", text: "x", seq: 7 }],
  ["bob", "send", { text: "x" }],
  ["bob", "send", { to: "@bob", key: "note", text: "to myself" }],
  ["alice", "edit", { conversation: "@bob", target: 1, text: "Hi!" }],
  ["bob", "edit", { conversation: "@alice", target: 1, text: "mine" }],
  ["bob", "edit", { conversation: "@alice", target: 3, text: "no message" }],
  ["bob", "edit", { conversation: "@alice", target: 1 }],
  ["bob", "react", { conversation: "@alice", target: 1, emoji: "👍️" }],
  ["bob", "react", { conversation: "@alice", target: 1, emoji: "👍" }],
  ["alice", "react", { conversation: "@bob", target: 1, emoji: "__proto__" }],
  ["alice", "react", { conversation: "@bob", target: 1, emoji: "constructor", on: false }],
  ["alice", "react", { conversation: "@bob", target: 1, emoji: "a b" }],
  ["bob", "history", { conversation: "@alice" }],
  ["bob", "react", { conversation: "@alice", target: 1, emoji: "👍", on: false }],
  ["bob", "react", { conversation: "@alice", target: 1, emoji: "👍", on: false }],
  ["bob", "delete", { conversation: "@alice", target: 1 }],
  ["alice", "delete", { conversation: "@bob", target: 1 }],
  ["alice", "delete", { conversation: "@bob", target: 1 }],
  ["bob", "react", { conversation: "@alice", target: 1, emoji: "👍" }],
  ["alice", "edit", { conversation: "@bob", target: 1, text: "again" }],
  ["alice", "send", { to: "@bob", key: "k1", text: "hi" }],
  ["bob", "history", { conversation: "@alice:bob" }],
  ["bob", "sync", { conversation: "@alice:bob" }],
  ["bob", "sync", { conversation: "@alice:bob", after: 2, limit: 2 }],
  ["bob", "sync", { conversation: "@alice:bob", after: 99 }],
  ["bob", "sync", { conversation: "@alice:bob", after: -1 }],
  ["carol", "sync", { conversation: "@alice:bob" }],
  ["bob", "leave", { conversation: "@alice" }],
  ["bob", "rename", { conversation: "@alice", title: "Us" }],
  ["bob", "read", { conversation: "@alice", upto: 2 }],
  ["bob", "read", { conversation: "@alice", upto: 1 }],
  ["bob", "received", { conversation: "@alice", upto: 99 }],
  ["bob", "members", { conversation: "@alice" }],
  ["bob", "conversations", {}],
  ["bob", "conversations", { limit: 1 }],
  ["bob", "conversations", { before: "@bob:bob" }],
  ["alice", "create", { startRoom: "#team", title: "Team", members: ["carol", "bob", "bob", "alice"] }],
  ["alice", "create", { room: "team", title: "Team", members: ["bob", "carol"] }],
  ["alice", "create", { room: "team", title: "Other", members: ["bob", "carol"] }],
  ["bob", "create", { room: "team" }],
  ["bob", "create", { room: "a room" }],
  ["bob", "create", { title: "" }],
  ["bob", "rename", { conversation: "#team", title: "Mine" }],
  ["dave", "rename", { conversation: "#team", title: "Mine" }],
  ["dave", "join", { conversation: "#team" }],
  ["bob", "join", { conversation: "#team" }],
  ["bob", "invite", { conversation: "#team", user: "dave" }],
  ["alice", "invite", { conversation: "#team", user: "dave", role: "reader" }],
  ["alice", "invite", { conversation: "#team", user: "dave", role: "owner" }],
  ["alice", "invite", { conversation: "#team", user: "dave" }],
  ["dave", "send", { to: "#team", text: "may I?" }],
  ["dave", "typing", { conversation: "#team" }],
  ["bob", "typing", { conversation: "#team" }],
  ["alice", "leave", { conversation: "#team" }],
  ["alice", "role", { conversation: "#team", user: "alice", role: "member" }],
  ["alice", "role", { conversation: "#team", user: "dave", role: "member" }],
  ["alice", "role", { conversation: "#team", user: "eve", role: "member" }],
  ["dave", "send", { to: "#team", key: "d1", text: "thanks" }],
  ["alice", "remove", { conversation: "#team", user: "alice" }],
  ["alice", "remove", { conversation: "#team", user: "eve" }],
  ["bob", "remove", { conversation: "#team", user: "dave" }],
  ["alice", "remove", { conversation: "#team", user: "dave" }],
  ["alice", "remove", { conversation: "#team", user: "dave" }],
  ["dave", "send", { to: "#team", key: "d2", text: "still here" }],
  ["dave", "send", { to: "#team", key: "d1", text: "thanks" }],
  ["alice", "send", { to: "#team", key: "t1", text: "without dave" }],
  ["dave", "history", { conversation: "#team" }],
  ["dave", "sync", { conversation: "#team" }],
  ["dave", "members", { conversation: "#team" }],
  ["dave", "leave", { conversation: "#team" }],
  ["alice", "role", { conversation: "#team", user: "bob", role: "admin" }],
  ["alice", "leave", { conversation: "#team" }],
  ["alice", "leave", { conversation: "#team" }],
  ["bob", "rename", { conversation: "#team", title: "Bob's" }],
  ["bob", "members", { conversation: "#team", limit: 1 }],
  ["bob", "members", { conversation: "#team", after: "bob" }],
  ["bob", "members", { conversation: "#team", after: "nobody" }],
  ["bob", "create", { room: "open", public: true }],
  ["carol", "join", { conversation: "#open" }],
  ["carol", "join", { conversation: "#open" }],
  ["carol", "invite", { conversation: "#open", user: "dave" }],
  ["carol", "invite", { conversation: "#open", user: "eve", role: "reader" }],
  ["bob", "role", { conversation: "#open", user: "carol", role: "reader" }],
  ["carol", "leave", { conversation: "#open" }],
  ["carol", "join", { conversation: "#open" }],
  ["bob", "conversations", {}],
  ["carol", "conversations", {}],
  ["bob", "sync", { conversation: "#open" }],
  ["bob", "history", { conversation: "#team", before: 8, limit: 1 }],
  ["bob", "history", { conversation: "#team", limit: 0 }],
  ...Array.from({ length: 9 }, (_, n) => ["bob", "send", { to: "#open", key: `o${n}`, text: `line ${n}` }]),
  ...[1, 9, 10, 11, 17, 18].map((around) => ["bob", "history", { conversation: "#open", around, limit: 4 }]),
  ["bob", "history", { conversation: "#open", around: 12, limit: 5 }],
  ["bob", "history", { conversation: "#open", around: 12, limit: 1 }],
  ["bob", "history", { conversation: "#open", around: 99 }],
  ["bob", "history", { conversation: "#open", around: 0 }],
  ["bob", "history", { conversation: "#open", around: 5, before: 5 }],
  ["bob", "dance", {}],
  ["bob", "toString", {}],
];

/** An answer without the parts that differ from run to run: times, and keys that a server made. */
function withoutVaryingFields(answer) {
  const answerCopy = JSON.parse(JSON.stringify(answer, (name, value) => (name === "at" ? "…" : value)));
  delete answerCopy.type;
  return answerCopy;
}

async function answerOfRealServer(server, as, command, fields) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ ...fields, as });
  const answer = await (await fetch(`${server.url}/v1/${command}`, { method: "POST", headers, body })).json();
  const { code, field } = answer;
  return code ? { code, ...(field && { field }) } : withoutVaryingFields(answer);
}

function answerOfFakeServer(server, as, command, fields) {
  try {
    return withoutVaryingFields(server.command(as, command, fields));
  } catch ({ code, field }) {
    return { code, ...(field && { field }) };
  }
}

test("every command and every refusal is answered as the real server answers it", async (t) => {
  const realServer = await Server.start(t);
  const simulatedServer = fakeServer();
  // The real server starts with a room, which the users of the script leave.
  for (const user of ["bob", "alice"]) {
    await realServer.posts("leave", { as: user, conversation: "#general" });
  }
  for (const [as, command, fields] of COMMAND_SCRIPT) {
    assert.deepEqual(
      answerOfFakeServer(simulatedServer, as, command, fields),
      await answerOfRealServer(realServer, as, command, fields),
      `${as} ${command} ${JSON.stringify(fields).slice(0, 200)}`,
    );
  }
});

/** The frames that a connection receives after sending `frames`, up to the answer to a last `ping` or the close. */
function exchangeFrames(Socket, url, frames) {
  return new Promise((resolve) => {
    const receivedFrames = [];
    const socket = new Socket(`${url.replace("http", "ws")}/v1/ws`, "switchboard.v1");
    socket.onopen = () => {
      for (const frame of frames) socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
      socket.send('{"type":"ping","id":"last"}');
    };
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.id === "last" && frame.type === "pong") return socket.close();
      if (frame.id === "last") return;
      const { at: _at, message: _message, limits, connection, server, ...rest } = frame;
      if (limits) assert.deepEqual([typeof connection, server.split("/")[0]], ["string", "switchboard"]);
      // The server for tests has neither bans, nor settings of rooms, nor blocking, nor reports, nor held messages.
      rest.features = rest.features?.filter(
        (feature) => !["bans", "slow", "block", "report", "hold"].includes(feature),
      );
      receivedFrames.push(withoutVaryingFields({ ...rest, frame: frame.type }));
    };
    socket.onclose = ({ code }) => resolve([...receivedFrames, code]);
  });
}

const FRAME_SCRIPTS = [
  [[{ type: "ping" }]],
  [["no JSON"]],
  [[{ type: "hello" }]],
  [[{ type: "hello", user: "no name" }]],
  [[{ type: "hello", user: "zoe", cursors: [] }]],
  [[{ type: "hello", user: "alice" }]],
  [
    [
      { type: "hello", user: "alice" },
      { type: "hello", user: "alice" },
    ],
  ],
  [[{ type: "hello", user: "alice" }, "[1]", { id: 1 }, { type: "dance", id: "x" }, { type: "send", id: 3 }]],
  [[{ type: "hello", user: "bob", cursors: { "@alice": 1 } }]],
  [[{ type: "hello", user: "bob", cursors: { "@alice:bob": 4, "#general": 99, "#nope": 1 } }]],
  [[{ type: "hello", user: "bob", cursors: { "#busy": 0 } }]],
  [
    [
      { type: "hello", user: "carol", cursors: { "#general": 0 } },
      { type: "join", id: 1, conversation: "#general" },
    ],
  ],
];

test("a connection hears what it hears from the real server, close codes included", async (t) => {
  const realServer = await Server.start(t, { env: { SWITCHBOARD_LIMITS_REPLAY: "10" } });
  const simulatedServer = fakeServer({ limits: { replay: 10 } });
  const realLog = await realServer.log("alice", "#general");
  simulatedServer.command("alice", "create", { room: "general", title: "General", public: true, members: ["bob"] });
  for (const { from, key, text } of realLog.slice(1))
    simulatedServer.command(from, "send", { to: "#general", key, text });
  const assertSameAnswer = async (as, command, fields) => {
    await realServer.posts(command, { as, ...fields });
    simulatedServer.command(as, command, fields);
  };
  for (let n = 0; n < 3; n++)
    await assertSameAnswer("alice", "send", { to: "@bob", key: `a${n}`, text: `direct ${n}` });
  await assertSameAnswer("bob", "create", { room: "busy" });
  for (let n = 0; n < 12; n++) await assertSameAnswer("bob", "send", { to: "#busy", key: `b${n}`, text: `busy ${n}` });
  for (const [frames] of FRAME_SCRIPTS) {
    assert.deepEqual(
      await exchangeFrames(simulatedServer.WebSocket, simulatedServer.url, frames),
      await exchangeFrames(WebSocket, realServer.url, frames),
      JSON.stringify(frames),
    );
  }
});

/** A server with a room of alice and bob, and alice's chat in it. */
async function openTeamRoom(options) {
  const server = fakeServer(options);
  server.command("alice", "create", { room: "team", members: ["bob"] });
  const alice = server.connect("alice");
  const team = alice.conversation("#team");
  await untilTexts(team, []);
  await until(team.state, (state) => state === "ready");
  return { server, alice, team };
}

test("a test makes a server, talks and looks into it", async () => {
  const { server, alice, team } = await openTeamRoom();
  server.command("bob", "send", { to: "#team", text: "hi", data: { n: 1 } });
  await untilTexts(team, ["hi"]);
  const { seq } = await team.send("hello").acked;
  assert.deepEqual(
    server.history("#team").map(({ from, text }) => `${from}: ${text}`),
    ["bob: hi", "alice: hello"],
  );
  assert.equal(server.log("#team").at(-1).seq, seq);
  assert.deepEqual(server.connections, ["alice"]);
  assert.throws(() => server.command("eve", "history", { conversation: "#team" }), {
    name: "ChatError",
    code: "not_found",
  });
  assert.throws(() => server.history("#nope"), /no conversation/);
  alice.close();
});

test("a test cuts the connection: what was said meanwhile comes on both sides", async () => {
  const { server, alice, team } = await openTeamRoom();
  const connections = server.connectionGroup();
  const bob = server.connect("bob", connections);
  await untilTexts(bob.conversation("#team"), []);
  await until(bob.conversation("#team").state, (state) => state === "ready");
  connections.goOffline();
  await until(bob.status, ({ state }) => state === "offline");
  assert.equal(alice.status.getSnapshot().state, "online", "others stay");
  const sent = bob.conversation("#team").send("from offline");
  await team.send("to offline").acked;
  connections.goOnline();
  await sent.acked;
  await untilTexts(team, ["to offline", "from offline"]);
  await untilTexts(bob.conversation("#team"), ["to offline", "from offline"]);
  server.cut("bob");
  await until(bob.status, ({ state }) => state === "offline");
  await untilOnline(bob);
  for (const chat of [alice, bob]) chat.close();
});

test("a test holds everything back and lets it go, in order", async () => {
  const { server, alice, team } = await openTeamRoom();
  server.pause();
  const sent = team.send("held");
  server.command("bob", "send", { to: "#team", text: "stored first" });
  await new Promise((done) => setImmediate(done));
  assert.deepEqual(
    team.messages.getSnapshot().map(({ text, state }) => [text, state]),
    [["held", "pending"]],
  );
  server.resume();
  await sent.acked;
  await untilTexts(team, ["stored first", "held"]);
  alice.close();
});

test("a test closes with a code, stops the server and restores a backup", async () => {
  const { server, alice, team } = await openTeamRoom();
  for (const text of ["kept", "lost"]) await team.send(text).acked;
  server.stop(5);
  const { code } = await until(alice.status, ({ state }) => state === "offline");
  assert.equal(code, 1012);
  server.restore("#team", 2);
  server.start();
  await untilOnline(alice);
  await untilTexts(team, ["kept"]);
  server.close(4502, "logged out everywhere");
  const offlineStatus = await until(alice.status, ({ state }) => state === "offline");
  assert.deepEqual([offlineStatus.code, offlineStatus.retryIn], [4502, undefined]);
  alice.close();
});
