// Presence and typing: the users in `watch`, and what happens when the app no longer subscribes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "@switchboard/client";
import { LogServer } from "./fake-log.js";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";
import { untilOnline, Server, until } from "./support.js";

async function startPresenceChat(t, server) {
  const clock = new FakeClock();
  const chat = connect("ws://chat.example", { user: "alice", outbox: null, WebSocket: server.WebSocket, clock });
  t.after(() => chat.close());
  chat.start();
  await runPendingTasks();
  return { chat, clock, watched: () => server.sent("watch").map(({ users }) => users) };
}

test("those that an app subscribes to are watched, in one question; nobody when it subscribes no more", async (t) => {
  const server = new FakeServer();
  const { chat, clock, watched } = await startPresenceChat(t, server);
  const unsubscribes = ["bob", "carol", "dave"].map((user) => chat.presence(user).subscribe(() => {}));
  await clock.advance(50);
  assert.deepEqual(watched(), [["bob", "carol", "dave"]]);
  unsubscribes[1]();
  await clock.advance(50);
  assert.deepEqual(watched().at(-1), ["bob", "dave"]);
  unsubscribes.forEach((stop) => stop());
  await clock.advance(50);
  assert.deepEqual(watched().at(-1), [], "the server is told that nobody looks");
  await clock.advance(1_000);
  server.cut();
  await clock.advance(1_000);
  assert.equal(watched().length, 3, "a new connection watches nobody, and need not be told so");
});

test("the other user of a direct conversation is watched again once either has written", async (t) => {
  const server = new LogServer();
  server.fill("@alice:bob", 1);
  const { chat, clock, watched } = await startPresenceChat(t, server);
  chat.presence("bob").subscribe(() => {});
  await clock.advance(1_000);
  const before = watched().length;
  const countAfterMessage = async (from) => {
    server.message("@alice:bob", "a text", { from });
    await clock.advance(50);
    return watched().length - before;
  };
  assert.equal(await countAfterMessage("bob"), 1, "alice may have written before");
  assert.equal(await countAfterMessage("bob"), 1);
  assert.equal(await countAfterMessage("alice"), 2, "now both have");
  assert.equal(await countAfterMessage("alice"), 2);
  assert.deepEqual(watched().at(-1), ["bob"]);
});

test("over `limits.watch` the last ones are watched, and `watched` says of the others that they are not", async (t) => {
  const server = new FakeServer({ limits: { watch: 3 } });
  const { chat, clock, watched } = await startPresenceChat(t, server);
  const users = ["a", "b", "c", "d", "e"];
  const unsubscribes = users.map((user) => chat.presence(user).subscribe(() => {}));
  const watchedStates = [];
  chat.presence("a").watched.subscribe((value) => watchedStates.push(value));
  await clock.advance(50);
  assert.deepEqual(watched(), [["c", "d", "e"]]);
  const watchedUsers = () => users.filter((user) => chat.presence(user).watched.getSnapshot());
  assert.deepEqual(watchedUsers(), ["c", "d", "e"]);
  server.say({ type: "presence", user: "c", online: true });
  await runPendingTasks();
  assert.deepEqual(
    users.map((user) => chat.presence(user).getSnapshot()?.online),
    [undefined, undefined, true, undefined, undefined],
  );
  // Users of new subscriptions are watched before those of older ones.
  chat.presence("a").subscribe(() => {});
  unsubscribes[3]();
  await clock.advance(50);
  assert.deepEqual(
    [watched().at(-1), watchedUsers()],
    [
      ["c", "e", "a"],
      ["a", "c", "e"],
    ],
  );
  await runPendingTasks();
  assert.deepEqual(watchedStates, [false, true]);
  server.cut();
  await runPendingTasks();
  assert.deepEqual(watchedUsers(), [], "without a connection nobody is watched");
});

test("a user's own typing, on another device, is not shown to them", async (t) => {
  const server = new FakeServer();
  const { chat, clock } = await startPresenceChat(t, server);
  const { typing } = chat.conversation("#general");
  server.say({ type: "typing", conversation: "#general", user: "alice" });
  server.say({ type: "typing", conversation: "#general", user: "bob" });
  await runPendingTasks();
  assert.deepEqual(typing.getSnapshot(), ["bob"]);
  await clock.advance(5_000);
  assert.deepEqual(typing.getSnapshot(), []);
});

test("one's own typing, on a real server: another device of the same user shows nothing", async (t) => {
  const server = await Server.start(t);
  const [phone, laptop, bob] = ["alice", "alice", "bob"].map((user) => server.connects(t, user));
  await Promise.all([phone, laptop, bob].map(untilOnline));
  const shownStates = [];
  laptop.conversation("#general").typing.subscribe((users) => shownStates.push(...users));
  phone.conversation("#general").typing.set(true);
  bob.conversation("#general").typing.set(true);
  await until(laptop.conversation("#general").typing, (users) => users.includes("bob"));
  assert.deepEqual([...new Set(shownStates)], ["bob"]);
});

test("typing is said again every three seconds at most, whatever the wall clock shows", async (t) => {
  const server = new FakeServer();
  const { chat, clock } = await startPresenceChat(t, server);
  const { typing } = chat.conversation("#general");
  typing.set(true);
  clock.offset -= 3_600_000;
  await clock.advance(2_900);
  typing.set(true);
  await runPendingTasks();
  assert.equal(server.sent("typing").length, 1);
  await clock.advance(200);
  typing.set(true);
  await runPendingTasks();
  assert.equal(server.sent("typing").length, 2);
  typing.set(false);
  typing.set(true);
  await runPendingTasks();
  assert.equal(server.sent("typing").length, 3, "a new text");
});
