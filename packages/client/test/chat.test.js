// Tests in which two users chat on the real server.

import assert from "node:assert/strict";
import { testOnBothServers, untilOnline, untilTexts, until } from "./support.js";

testOnBothServers(
  "a message is pending, then sent, and comes to the other side and to every device",
  async (t, Server) => {
    const server = await Server.start(t);
    const alice = server.connects(t, "alice");
    const laptop = server.connects(t, "alice");
    const bob = server.connects(t, "bob");
    const [there, here, elsewhere] = [
      bob.conversation("@alice"),
      alice.conversation("@bob"),
      laptop.conversation("@bob"),
    ];
    await Promise.all([alice, laptop, bob].map(untilOnline));
    await Promise.all([untilTexts(there, []), untilTexts(here, []), untilTexts(elsewhere, [])]);
    const sentMessage = here.send("hi");
    assert.equal(sentMessage.state.getSnapshot(), "pending");
    assert.deepEqual(
      here.messages.getSnapshot().map((m) => [m.text, m.state, m.seq]),
      [["hi", "pending", undefined]],
    );
    const { id } = here.messages.getSnapshot()[0];
    assert.deepEqual((({ conversation, seq }) => ({ conversation, seq }))(await sentMessage.acked), {
      conversation: "@alice:bob",
      seq: 1,
    });
    for (const room of [here, there, elsewhere]) {
      const [message] = await until(room.messages, (list) => list[0]?.seq === 1);
      assert.deepEqual([message.id, message.text, message.from, message.state], [id, "hi", "alice", "sent"]);
    }
    assert.equal(bob.conversation("@alice"), bob.conversation("@alice:bob"));
  },
);

testOnBothServers(
  "edits, deletions, reactions and replies are folded in, live and from the history alike",
  async (t, Server) => {
    const server = await Server.start(t);
    const [alice, bob] = ["alice", "bob"].map((name) => server.connects(t, name));
    const [hers, his] = [alice, bob].map((chat) => chat.conversation("#general"));
    await Promise.all([hers, his].map((room) => until(room.messages, (list) => list.length === 3)));
    const { seq } = await hers.send("one").acked;
    const acknowledgement = await his.send({ text: "two", replyTo: seq, data: { kind: "x" } }).acked;
    await hers.edit(seq, "ONE");
    await his.react(seq, "👍");
    await hers.react(seq, "👍");
    await hers.react(seq, "🎉");
    await hers.react(seq, "🎉", false);
    const deletedMessage = await his.send("three").acked;
    await his.deleteMessage(deletedMessage.seq);
    const isDeletionShown = (list) => list.find((m) => m.seq === deletedMessage.seq)?.deleted;
    const shownLists = await Promise.all([hers, his].map((room) => until(room.messages, isDeletionShown)));
    assert.deepEqual(shownLists[0], shownLists[1]);
    const message = shownLists[0].find((m) => m.seq === seq);
    assert.equal(message.text, "ONE");
    assert.ok(message.edited.seq > seq);
    assert.deepEqual(message.reactions, { "👍": ["bob", "alice"] });
    const { replyTo, data } = shownLists[0].find((m) => m.seq === acknowledgement.seq);
    assert.deepEqual({ replyTo, data }, { replyTo: seq, data: { kind: "x" } });
    const freshRoom = server.connects(t, "bob").conversation("#general");
    assert.deepEqual(await until(freshRoom.messages, (list) => list.length > 3), shownLists[0]);
    await assert.rejects(hers.edit(acknowledgement.seq, "not mine"), { code: "forbidden" });
    // This test ignores the promise, and must have no unhandled rejection.
    void hers.deleteMessage(999);
  },
);

testOnBothServers("the inbox: order, unread, last message, read on another device", async (t, Server) => {
  const server = await Server.start(t);
  const [alice, bob] = ["alice", "bob"].map((name) => server.connects(t, name));
  const phone = server.connects(t, "bob");
  await Promise.all([alice, bob, phone].map(untilOnline));
  await alice.conversation("@bob").send("psst").acked;
  const conversationIds = (list) => list.map((c) => c.id);
  await until(bob.conversations, (list) => conversationIds(list).join() === "@alice:bob,#general");
  assert.deepEqual(
    bob.conversations
      .getSnapshot()
      .map((c) => [c.peer, c.unread, c.last.text])
      .at(0),
    ["alice", 1, "psst"],
  );
  await alice.conversation("#general").send("all").acked;
  await until(bob.conversations, (list) => conversationIds(list).join() === "#general,@alice:bob");
  const rowOf = (chat, id) => chat.conversations.getSnapshot().find((c) => c.id === id);
  await until(phone.conversations, () => rowOf(phone, "@alice:bob")?.unread === 1);
  await until(bob.conversation("@alice").messages, (list) => list.length === 1);
  bob.conversation("@alice").markRead();
  await until(bob.conversations, () => rowOf(bob, "@alice:bob").unread === 0);
  await until(phone.conversations, () => rowOf(phone, "@alice:bob").unread === 0);
  // Read cursors are shown once both have written.
  await bob.conversation("@alice").send("yes?").acked;
  await until(alice.conversation("@bob").members, (list) => list.find((m) => m.user === "bob")?.read >= 1);
});

testOnBothServers("rooms: create, invite, roles, rename, remove, leave, join", async (t, Server) => {
  const server = await Server.start(t);
  const [alice, bob, carol] = ["alice", "bob", "carol"].map((name) => server.connects(t, name));
  await Promise.all([alice, bob, carol].map(untilOnline));
  const room = await alice.create({ room: "team", title: "Team", members: ["bob"] });
  assert.equal(room.id, "#team");
  await until(bob.conversations, (list) => list.some((c) => c.title === "Team"));
  const carolsRoom = carol.conversation("#team");
  await until(carolsRoom.state, (state) => state === "loading" || state === "missing");
  carolsRoom.messages.subscribe(() => {});
  await until(carolsRoom.state, (state) => state === "missing");
  await room.invite("carol", "reader");
  await until(carolsRoom.state, (state) => state === "ready");
  await until(carolsRoom.info, (info) => info?.role === "reader" && info.memberCount === 3);
  await assert.rejects(carolsRoom.send("may I?").acked, { code: "forbidden" });
  assert.equal(carolsRoom.messages.getSnapshot().at(-1).state, "failed");
  await room.setRole("carol", "member");
  await until(carolsRoom.info, (info) => info?.role === "member");
  carolsRoom.outgoing(carolsRoom.messages.getSnapshot().at(-1).key).retry();
  await until(room.messages, (list) => list.at(-1)?.text === "may I?");
  await room.rename("The team");
  await until(carolsRoom.info, (info) => info?.title === "The team");
  await until(
    room.members,
    (list) => list.map((m) => `${m.user} ${m.role}`).join() === "alice admin,bob member,carol member",
  );
  await room.removeMember("bob");
  await until(bob.conversations, (list) => !list.some((c) => c.id === "#team"));
  await carolsRoom.leave();
  await until(carol.conversations, (list) => !list.some((c) => c.id === "#team"));
  await assert.rejects(carolsRoom.join(), { code: "not_found" });
  const publicRoom = await alice.create({ public: true, title: "Open" });
  await carol.conversation(publicRoom.id).join();
  await until(carol.conversations, (list) => list.some((c) => c.title === "Open"));
  const unnamedRoom = await alice.create();
  await until(unnamedRoom.members, (list) => list.map((m) => `${m.user} ${m.role}`).join() === "alice admin");
});

testOnBothServers(
  "a conversation beyond the first page of the inbox: how it stands is found out when it is opened",
  async (t, Server) => {
    const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_PAGE: "8" } });
    for (let n = 0; n < 12; n++) await server.posts("send", { as: `user${n}`, to: "@alice", text: "hi" });
    const alice = server.connects(t, "alice");
    await untilOnline(alice);
    const room = alice.conversation("@user0");
    assert.equal(room.info.getSnapshot(), undefined);
    room.messages.subscribe(() => {});
    assert.equal((await until(room.info, (info) => info)).unread, 1);
    room.markRead();
    await until(room.info, (info) => info.unread === 0);
    while (await alice.conversations.loadMore());
    const listedIds = alice.conversations.getSnapshot().map((c) => c.id);
    const expectedIds = Array.from({ length: 12 }, (_, n) => `@alice:user${11 - n}`);
    assert.deepEqual(listedIds, [...expectedIds, "#general"]);
  },
);

testOnBothServers("typing and presence", async (t, Server) => {
  const server = await Server.start(t);
  const [alice, bob] = ["alice", "bob"].map((name) => server.connects(t, name));
  await Promise.all([alice, bob].map(untilOnline));
  await until(alice.presence("bob"), (presence) => presence?.online === true);
  const room = alice.conversation("#general");
  bob.conversation("#general").typing.set(true);
  await until(room.typing, (users) => users.join() === "bob");
  await bob.conversation("#general").send("there").acked;
  await until(room.typing, (users) => users.length === 0);
  bob.close();
  await until(alice.presence("bob"), (presence) => presence?.online === false && presence.lastSeen);
});

testOnBothServers("older messages, page by page, with what happens to them meanwhile", async (t, Server) => {
  const server = await Server.start(t);
  const alice = server.connects(t, "alice");
  const room = alice.conversation("@bob");
  const allTexts = Array.from({ length: 130 }, (_, n) => `message ${n}`);
  await Promise.all(allTexts.map((text) => room.send(text).acked));
  const bob = server.connects(t, "bob");
  const bobsRoom = bob.conversation("@alice");
  assert.equal((await until(bobsRoom.messages, (list) => list.length > 0)).length, 50);
  const firstLoad = bobsRoom.loadOlder();
  const secondLoad = bobsRoom.loadOlder();
  await room.edit(60, "edited");
  assert.deepEqual([await firstLoad, await secondLoad], [true, true], "asked twice, loaded once");
  assert.equal(bobsRoom.messages.getSnapshot().length, 100);
  await until(bobsRoom.messages, (list) => list.find((m) => m.seq === 60)?.text === "edited");
  assert.equal(await bobsRoom.loadOlder(), true);
  assert.equal(await bobsRoom.loadOlder(), false);
  assert.deepEqual(
    bobsRoom.messages.getSnapshot().map((m) => m.text),
    allTexts.map((text, n) => (n === 59 ? "edited" : text)),
  );
});

testOnBothServers(
  "whoever listens to all messages hears each once, of new conversations too, over losses",
  async (t, Server) => {
    const server = await Server.start(t);
    const { WebSocket, cut } = server.connectionGroup();
    const bot = server.connects(t, "bot", { WebSocket });
    const heardTexts = [];
    bot.on("message", ({ message, conversation }) => heardTexts.push(`${conversation.id} ${message.text}`));
    await untilOnline(bot);
    const alice = server.connects(t, "alice");
    await alice.conversation("@bot").send("first").acked;
    await until(
      { subscribe: (l) => bot.conversations.subscribe(() => l(heardTexts)), getSnapshot: () => heardTexts },
      () => heardTexts.length === 1,
    );
    cut();
    await until(bot.status, ({ state }) => state === "offline");
    await alice.conversation("@bot").send("while away").acked;
    await untilOnline(bot);
    await alice.conversation("@bot").send("back").acked;
    await until(
      { subscribe: (l) => bot.conversations.subscribe(() => l(heardTexts)), getSnapshot: () => heardTexts },
      () => heardTexts.length === 3,
    );
    assert.deepEqual(heardTexts, ["@alice:bot first", "@alice:bot while away", "@alice:bot back"]);
  },
);

testOnBothServers(
  "unread messages of conversations that are not loaded count, and a message far back has its surroundings",
  async (t, Server) => {
    const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_PAGE: "8" } });
    for (let n = 0; n < 12; n++) await server.posts("send", { as: `user${n}`, to: "@alice", text: "hi" });
    for (let n = 0; n < 60; n++) await server.posts("send", { as: "bob", to: "@alice", text: `line ${n}` });
    const alice = server.connects(t, "alice");
    await untilOnline(alice);
    const unreadCounts = () => (({ messages, conversations }) => [messages, conversations])(alice.unread.getSnapshot());
    const countsBefore = unreadCounts();
    assert.ok(alice.conversations.getSnapshot().length < 13);
    assert.ok(countsBefore[0] >= 72 && countsBefore[1] >= 13, `${countsBefore}`);
    while (await alice.conversations.loadMore());
    assert.deepEqual(unreadCounts(), countsBefore, "the same when all of them are loaded");
    assert.equal(alice.conversations.hasMore.getSnapshot(), false);
    const { messages, hasOlder, hasNewer } = await alice.conversation("@bob").around(30);
    assert.ok(messages.some(({ seq, text }) => seq === 30 && text === "line 29"));
    assert.deepEqual([hasOlder, hasNewer], [true, true]);
  },
);
