// Blocking: what a user who has blocked another one sees, on all devices.

import assert from "node:assert/strict";
import { test } from "node:test";
import { moderation } from "@switchboard/client/moderation";
import { Server, until, untilOnline } from "./support.js";

/** Connects three users who share the room `#team`: alice on two devices, bob and mallory. */
async function team(t, server) {
  const [alice, phone, bob, mallory] = ["alice", "alice", "bob", "mallory"].map((user) => server.connects(t, user));
  await untilOnline(alice, phone, bob, mallory);
  await alice.create({ room: "team", members: ["bob", "mallory"] });
  const tool = moderation(alice);
  t.after(() => tool.close());
  return { alice, phone, bob, mallory, tool };
}

const textsOf = (messages) => messages.map(({ text }) => text);
/** What a timeline shows: the texts, and the authors of withheld messages. */
const shownIn = (timeline) =>
  timeline
    .filter(({ kind, type }) => kind === "message" || type === "withheld")
    .map(({ text, from }) => text ?? `(${from})`);

test("a blocked person's messages are withheld on all devices, and are there again after the block", async (t) => {
  const server = await Server.start(t);
  const { alice, phone, bob, mallory, tool } = await team(t, server);
  const rooms = [alice, phone].map((chat) => chat.conversation("#team"));
  rooms.forEach((room) => room.timeline.subscribe(() => {}));
  await mallory.conversation("#team").send("before");
  await bob.conversation("#team").send("hello");
  for (const room of rooms) await until(room.messages, (list) => list.length === 2);

  await tool.block("mallory");
  for (const room of rooms) {
    await until(room.timeline, (list) => shownIn(list).join() === "(mallory),hello");
    assert.deepEqual(textsOf(room.messages.getSnapshot()), ["hello"]);
  }
  const reported = [];
  alice.on("message", ({ message }) => reported.push(message.text), { replay: "none" });
  await mallory.conversation("#team").send("after");
  await bob.conversation("#team").send("bye");
  for (const room of rooms)
    await until(room.timeline, (list) => shownIn(list).join() === "(mallory),hello,(mallory),bye");
  assert.deepEqual(reported, ["bye"], "a listener hears nothing of a blocked person");
  assert.equal(rooms[0].info.getSnapshot().unread, 2, "a withheld message is not counted");

  await tool.unblock("mallory");
  for (const room of rooms) {
    await until(room.messages, (list) => textsOf(list).join() === "before,hello,after,bye");
    assert.ok(!room.timeline.getSnapshot().some(({ type }) => type === "withheld"));
    await until(room.info, ({ unread }) => unread === 4);
  }
});

test("a direct conversation with a blocked person is not in the list, and comes back with what was missed", async (t) => {
  const server = await Server.start(t);
  const { alice, phone, mallory, tool } = await team(t, server);
  const direct = mallory.conversation("@alice");
  await direct.send("one");
  const idsOf = (list) => list.map(({ id }) => id);
  for (const { conversations } of [alice, phone])
    await until(conversations, (list) => idsOf(list).includes("@alice:mallory"));
  const open = phone.conversation("@mallory");
  open.messages.subscribe(() => {});
  await until(open.messages, (list) => list.length === 1);

  await tool.block("mallory");
  for (const { conversations } of [alice, phone])
    await until(conversations, (list) => !idsOf(list).includes("@alice:mallory"));
  await until(open.messages, (list) => list.length === 0);
  assert.equal((await direct.send("two")).seq, 2, "the blocked person notices nothing");

  await tool.unblock("mallory");
  for (const { conversations } of [alice, phone])
    await until(conversations, (list) => idsOf(list).includes("@alice:mallory"));
  await until(open.messages, (list) => textsOf(list).join() === "one,two");
  await direct.send("three");
  await until(open.messages, (list) => textsOf(list).join() === "one,two,three");
});

test("the list of blocked people follows on every device, over a reconnect", async (t) => {
  const server = await Server.start(t);
  const { phone, tool } = await team(t, server);
  const other = moderation(phone);
  t.after(() => other.close());
  assert.equal(tool.available, true);
  const shown = [tool, other].map(({ blocked }) => {
    blocked.subscribe(() => {});
    return blocked;
  });
  for (const blocked of shown) await until(blocked, (list) => list?.length === 0);
  await other.block("mallory");
  for (const blocked of shown) await until(blocked, (list) => list?.map(({ user }) => user).join() === "mallory");
  await server.kill();
  await server.start();
  await untilOnline(phone);
  await other.unblock("mallory");
  for (const blocked of shown) await until(blocked, (list) => list?.length === 0);
  await assert.rejects(tool.block("alice"), { name: "ChatError" });
});

test("pages without a visible message do not hide what is before them", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_SENDS_PER_USER: "1000" } });
  const { alice, bob, mallory, tool } = await team(t, server);
  await bob.conversation("#team").send("first");
  for (let n = 0; n < 120; n++) await mallory.conversation("#team").send(`spam ${n}`);
  await tool.block("mallory");
  const room = alice.conversation("#team");
  room.messages.subscribe(() => {});
  await until(room.state, (state) => state === "ready");
  assert.equal(await room.loadOlder(), true);
  assert.deepEqual(textsOf(room.messages.getSnapshot()), ["first"]);
  assert.equal(room.hasOlder.getSnapshot(), false);
});

test("who reported a message and its author hear of the decision, each their part; others hear nothing", async (t) => {
  const server = await Server.start(t);
  const { alice, bob, mallory, tool } = await team(t, server);
  const [authors, bobs] = [mallory, bob].map((chat) => moderation(chat));
  t.after(() => [authors, bobs].forEach((one) => one.close()));
  const decisions = { alice: [], mallory: [], bob: [] };
  tool.onDecision((decision) => decisions.alice.push(decision));
  authors.onDecision((decision) => decisions.mallory.push(decision));
  bobs.onDecision((decision) => decisions.bob.push(decision));
  assert.equal(tool.takesReports, true);

  const { seq } = await mallory.conversation("#team").send("cheap pills");
  const about = { conversation: "#team", target: seq };
  await until(alice.conversation("#team").messages, (list) => list.length === 1);
  const report = await tool.report({ ...about, reason: "spam" });
  assert.equal(await tool.report({ ...about, reason: "abuse" }), report);
  await server.posts("resolve", { as: "mia", report, action: "delete", tell: "No advertising." });
  await until(alice.conversation("#team").messages, ([message]) => message.deleted);
  // Signals and events come in one order, so the next message comes after the decision.
  await bob.conversation("#team").send("done");
  for (const chat of [alice, bob, mallory])
    await until(chat.conversation("#team").messages, (list) => list.at(-1)?.text === "done");
  assert.deepEqual(decisions, {
    alice: [{ action: "delete", report, ...about }],
    mallory: [{ action: "delete", ...about, text: "No advertising." }],
    bob: [],
  });
});

test("a held message becomes an ordinary one when it is released, and fails when it is rejected", async (t) => {
  const server = await Server.start(t);
  const { bob, mallory } = await team(t, server);
  const tool = moderation(mallory);
  t.after(() => tool.close());
  const decisions = [];
  tool.onDecision((decision) => decisions.push(decision));
  await server.posts("ban", { user: "mallory", shadow: true });
  const room = mallory.conversation("#team");
  room.messages.subscribe(() => {});
  const [first, second] = ["first", "second"].map((text) => room.send(text));
  for (const sent of [first, second]) await until(sent.state, (state) => state === "held");
  await server.kill();
  await server.start();
  await untilOnline(bob, mallory);
  await bob.conversation("#team").send("meanwhile");
  await until(room.messages, (list) => list.some(({ text }) => text === "meanwhile"));

  const { reports } = await server.posts("reports", { state: "open" });
  const reportOf = (text) => reports.find(({ snapshot }) => snapshot.text === text).report;
  assert.deepEqual([reports.length, first.state.getSnapshot()], [2, "held"], "sent again, and stored once");
  await server.posts("resolve", { as: "mia", report: reportOf("second"), action: "release" });
  assert.equal((await second).seq, 3);
  await server.posts("resolve", { as: "mia", report: reportOf("first"), action: "reject" });
  await assert.rejects(first.acked, { code: "refused" });
  assert.deepEqual(decisions, [{ action: "reject", conversation: "#team" }]);
  assert.deepEqual(textsOf(room.messages.getSnapshot()), ["meanwhile", "second", "first"]);
  await until(bob.conversation("#team").messages, (list) => textsOf(list).join() === "meanwhile,second");
});
