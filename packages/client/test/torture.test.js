// Four users chat while their connections are cut a thousand times at random moments.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { untilOnline, Server, until, connectionGroup } from "./support.js";

const DISCONNECTS = 1_000;
const USER_NAMES = ["alice", "bob", "carol", "dave"];
const ROOM = "#general";

/** A message of the server in the form that a list of the SDK has. */
const listedFields = ({ seq, from, text, edited, deleted, reactions }) => ({
  seq,
  from,
  text,
  edited: edited?.seq,
  deleted: !!deleted,
  reactions: reactions ?? {},
});

// The random numbers have a seed, so that a run can be repeated as far as the network allows.
let seed = Number(process.env.SEED ?? 20261125);
const random = () => {
  seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
  return seed / 2 ** 31;
};
const randomChoice = (list) => list[Math.floor(random() * list.length)];

test(`${DISCONNECTS} disconnects while four people chat: every list is the server's, every send resolves`, async (t) => {
  const server = await Server.start(t);
  for (const name of USER_NAMES.slice(2)) await server.posts("join", { as: name, conversation: ROOM });
  const people = USER_NAMES.map((name) => {
    const { WebSocket, cut, open } = connectionGroup();
    const chat = server.connects(t, name, { WebSocket });
    return { name, chat, cut, open, room: chat.conversation(ROOM), sent: [], doubled: [], unordered: [] };
  });
  for (const { room, doubled, unordered } of people) {
    room.messages.subscribe((list) => {
      // The list must have no duplicate at any moment, not only at the end.
      const messageIds = list.map((m) => m.id);
      if (new Set(messageIds).size !== messageIds.length) doubled.push(messageIds);
      // The user's own messages at the end may be stored already, while earlier events have not arrived yet.
      const foreignSeqs = list.filter((m) => m.seq && !room.outgoing(m.key)).map((m) => m.seq);
      if (foreignSeqs.some((seq, n) => n > 0 && seq <= foreignSeqs[n - 1])) unordered.push(foreignSeqs);
    });
  }
  await Promise.all(people.map(({ chat }) => untilOnline(chat)));
  await Promise.all(people.map(({ room }) => until(room.state, (state) => state === "ready")));

  const amendments = [];
  let cuts = 0;
  let n = 0;
  while (cuts < DISCONNECTS) {
    const person = randomChoice(people);
    const { room, name } = person;
    const randomNumber = random();
    if (randomNumber < 0.45) {
      person.sent.push(room.send(`${name} ${n++}`));
    } else if (randomNumber < 0.55) {
      const list = room.messages.getSnapshot().filter((m) => m.seq && !m.deleted);
      const ownMessages = list.filter((m) => m.from === name);
      if (list.length && random() < 0.6)
        amendments.push(room.react(randomChoice(list).seq, randomChoice(["👍", "🎉"]), random() < 0.7));
      else if (ownMessages.length && random() < 0.7)
        amendments.push(room.edit(randomChoice(ownMessages).seq, `${name} edits ${n++}`));
      else if (ownMessages.length) amendments.push(room.deleteMessage(randomChoice(ownMessages).seq));
    } else {
      const { size } = person.open;
      person.cut();
      cuts += size;
      // Most reconnects are forced, so that they do not wait for the backoff.
      person.chat.reconnect();
    }
    // Lets the network run: for one round of the event loop, or for some milliseconds.
    if (random() < 0.5) await new Promise((done) => setImmediate(done));
    else await new Promise((done) => setTimeout(done, random() * 4));
  }
  const sends = people.flatMap(({ sent }) => sent);
  const acknowledgements = await Promise.all(sends.map((sent) => sent.acked));
  t.diagnostic(`${cuts} connections cut, ${sends.length} messages`);

  const log = await server.log("alice", ROOM);
  assert.deepEqual(
    log.map((event) => event.seq),
    log.map((_, index) => index + 1),
    "no gap in the log",
  );
  const storedMessages = log.filter((event) => event.type === "message");
  assert.equal(storedMessages.length, 3 + sends.length, "stored once each, with the three that were there");
  assert.deepEqual(
    new Set(acknowledgements.map(({ seq }) => seq)),
    new Set(storedMessages.slice(3).map(({ seq }) => seq)),
  );

  await Promise.all(people.map(({ chat }) => untilOnline(chat)));
  await Promise.allSettled(amendments);
  const expectedMessages = (await server.history("alice", ROOM)).map(listedFields);
  for (const { name, room, doubled, unordered } of people) {
    assert.deepEqual([doubled, unordered], [[], []], `what ${name} saw on the way`);
    while (await room.loadOlder());
    const matchesWanted = (list) => isDeepStrictEqual(list.map(listedFields), expectedMessages);
    // The last changes may still be in flight.
    const list = await until(room.messages, matchesWanted, `${name}'s ${expectedMessages.length} messages`).catch(() =>
      room.messages.getSnapshot(),
    );
    assert.deepEqual(list.map(listedFields), expectedMessages, `the list of ${name}`);
    assert.ok(list.every((m) => m.state === "sent"));
  }
});
