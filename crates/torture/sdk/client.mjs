// An app on the SDK, for several users at once: it sends, and tells on stdout what a person would see, a line of JSON each.
// Its one argument says who and where. On stdin, "settle" ends the sending, and an object with the last message
// of each conversation ends it all.

import { createInterface } from "node:readline";
import { connect } from "@switchboard/client";

const { url, users, seed, pause } = JSON.parse(process.argv[2]);

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// A small generator, so that a seed means the same each time (Steele and Vigna's splitmix32 in its usual JavaScript form).
let state = seed >>> 0;
const random = () => {
  state = (state + 0x9e3779b9) >>> 0;
  let z = state;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
};

let settling = false;
/** What is not acknowledged yet, by key. */
const waiting = new Map();

const chats = users.map(({ user, token, rooms }) => {
  const chat = connect(url, { token, device: "sdk", outbox: null });
  chat.on("message", ({ message, conversation }) => {
    tell({ type: "shown", user, conversation: conversation.id, seq: message.seq, key: message.key });
  });
  for (const id of rooms) {
    const room = chat.conversation(id);
    room.on("resync", () => tell({ type: "resync", user, conversation: room.id }));
    // Opened, so that it keeps its list.
    room.messages.subscribe((list) => {
      const seqs = list.filter(({ seq }) => seq !== undefined).map(({ seq }) => seq);
      const wrong = seqs.findIndex((seq, i) => i > 0 && seq <= seqs[i - 1]);
      if (wrong > 0)
        tell({ type: "broken", what: `the list of ${room.id} of ${user} has ${seqs[wrong]} after ${seqs[wrong - 1]}` });
    });
  }
  let number = 0;
  const act = () => {
    if (settling) return;
    const room = chat.conversation(rooms[Math.floor(random() * rooms.length)]);
    if (waiting.size < 200) {
      for (let left = 1 + Math.floor(random() * 4); left > 0; left--) {
        const text = `${user} ${++number} ${"y".repeat(Math.floor(random() * 200))}`;
        const sent = room.send(text);
        tell({ type: "tried", user, conversation: room.id, key: sent.key, text, number });
        const done = sent.acked
          .then(({ conversation, seq, at }) => tell({ type: "acked", user, conversation, key: sent.key, seq, at }))
          .catch((error) =>
            tell({ type: "broken", what: `${sent.key} of ${user} failed for good: ${error.code} ${error.message}` }),
          )
          .finally(() => waiting.delete(sent.key));
        waiting.set(sent.key, done);
      }
    }
    if (random() < 0.2) room.markRead();
    if (random() < 0.1) room.typing.set(true);
    setTimeout(act, -Math.log(1 - random()) * pause);
  };
  setTimeout(act, random() * pause);
  return { user, chat, rooms };
});

/** Waits until a list ends with this message. */
const endsWith = (room, seq) =>
  new Promise((resolve) => {
    let stop;
    const look = (list) => {
      const last = list.filter((message) => message.seq !== undefined).at(-1)?.seq ?? 0;
      if (last >= seq) {
        resolve();
        queueMicrotask(() => stop());
      }
    };
    stop = room.messages.subscribe(look);
  });

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command === "settle") {
    settling = true;
    await Promise.allSettled(waiting.values());
    tell({ type: "settled" });
  } else {
    await Promise.all(
      chats.flatMap(({ chat, rooms }) => rooms.map((id) => endsWith(chat.conversation(id), command.last[id] ?? 0))),
    );
    for (const { user, chat, rooms } of chats) {
      for (const id of rooms) {
        const room = chat.conversation(id);
        const messages = room.messages.getSnapshot().filter(({ seq }) => seq !== undefined);
        tell({ type: "screen", user, conversation: room.id, messages: messages.map(({ seq, key }) => [seq, key]) });
      }
    }
    tell({ type: "done" });
    for (const { chat } of chats) chat.close();
    break;
  }
}
