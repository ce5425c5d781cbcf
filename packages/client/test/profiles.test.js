// Names and pictures of users, from the server and from the app.

import assert from "node:assert/strict";
import { test } from "node:test";
import { profiles } from "@switchboard/client/profiles";
import { Server, until, untilOnline } from "./support.js";

/** Keeps a profile on the screen. */
const recordShown = (people, user) => {
  people.of(user).subscribe(() => {});
  return () => people.of(user).getSnapshot();
};

test("a name is looked up for its first subscriber, and follows its changes over reconnects", async (t) => {
  const server = await Server.start(t);
  const [ana, bob] = ["ana", "bob"].map((user) => server.connects(t, user));
  await untilOnline(ana, bob);
  await ana.conversation("@bob").send("hi");
  const [anas, bobs] = [ana, bob].map((chat) => profiles(chat));
  t.after(() => [anas, bobs].forEach((people) => people.close()));
  await anas.change({ name: "Ana María", data: { tier: "gold" } });
  const shown = recordShown(bobs, "ana");
  assert.deepEqual(shown(), { user: "ana" }, "the id alone until it is known");
  await until(bobs.of("ana"), ({ name }) => name === "Ana María");
  assert.deepEqual(shown().data, { tier: "gold" });
  await anas.change({ name: "Ana", data: null });
  await until(bobs.of("ana"), ({ name }) => name === "Ana");
  assert.equal("data" in shown(), false);
  await server.kill();
  await server.start();
  await untilOnline(ana, bob);
  await anas.change({ name: "Ana again" });
  await until(bobs.of("ana"), ({ name }) => name === "Ana again");
  assert.equal(recordShown(anas, "ana")().name, "Ana again", "one's own, without a question");
});

test("people are found by the beginning of a word", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_PERMISSIONS_DIRECTORY: "all" } });
  const [ana, bob] = ["usr_1", "usr_2"].map((user) => server.connects(t, user));
  await untilOnline(ana, bob);
  const [anas, bobs] = [ana, bob].map((chat) => profiles(chat));
  t.after(() => [anas, bobs].forEach((people) => people.close()));
  await anas.change({ name: "Ana María López" });
  const found = await bobs.find("lóp", { limit: 5 });
  assert.deepEqual(
    found.map(({ user, name }) => [user, name]),
    [["usr_1", "Ana María López"]],
  );
  assert.equal(bobs.of("usr_1").getSnapshot().name, "Ana María López", "what was found is known");
  assert.equal(bobs.available, true);
});

test("an app looks up names itself, several in one call and each once", async (t) => {
  const server = await Server.start(t);
  const chat = server.connects(t, "ana");
  const resolvedUsers = [];
  const resolve = async (users) => {
    resolvedUsers.push(users);
    return users.map((user) => ({ user, name: user.toUpperCase() }));
  };
  const people = profiles(chat, { resolve });
  t.after(() => people.close());
  ["bob", "carol", "bob"].forEach((user) => recordShown(people, user));
  for (const user of ["bob", "carol"]) await until(people.of(user), ({ name }) => name === user.toUpperCase());
  recordShown(people, "bob");
  await untilOnline(chat);
  recordShown(people, "dave");
  await until(people.of("dave"), ({ name }) => name === "DAVE");
  assert.deepEqual(resolvedUsers, [["bob", "carol"], ["dave"]]);
});
