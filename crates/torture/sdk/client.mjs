// An app on the SDK for several users. It sends messages, and writes what a user would see to stdout, one line of JSON for
// each change. The argument has the users and the URL. On stdin, "settle" stops the sending; an object with the last message
// of each conversation ends the program.

import { createInterface } from "node:readline";
import { connect } from "@switchboard/client";

const { url, users, seed, pause } = JSON.parse(process.argv[2]);

const printLine = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// A small generator, so that a seed gives the same numbers each time (Steele and Vigna's splitmix32 in its usual JavaScript form).
let state = seed >>> 0;
const random = () => {
  state = (state + 0x9e3779b9) >>> 0;
  let z = state;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
};

let settling = false;
/** Sends without an acknowledgement, by key. */
const unacknowledged = new Map();

const chats = users.map(({ user, token, rooms }) => {
  const chat = connect(url, { token, device: "sdk", outbox: null });
  chat.on("message", ({ message, conversation }) => {
    printLine({ type: "shown", user, conversation: conversation.id, seq: message.seq, key: message.key });
  });
  for (const id of rooms) {
    const room = chat.conversation(id);
    room.on("resync", () => printLine({ type: "resync", user, conversation: room.id }));
    // The subscription makes the SDK keep the list.
    room.messages.subscribe((list) => {
      const seqs = list.filter(({ seq }) => seq !== undefined).map(({ seq }) => seq);
      const firstOutOfOrder = seqs.findIndex((seq, i) => i > 0 && seq <= seqs[i - 1]);
      if (firstOutOfOrder > 0)
        printLine({
          type: "broken",
          what: `the list of ${room.id} of ${user} has ${seqs[firstOutOfOrder]} after ${seqs[firstOutOfOrder - 1]}`,
        });
    });
  }
  let number = 0;
  const sendNextMessage = () => {
    if (settling) return;
    const room = chat.conversation(rooms[Math.floor(random() * rooms.length)]);
    if (unacknowledged.size < 200) {
      for (let left = 1 + Math.floor(random() * 4); left > 0; left--) {
        const text = `${user} ${++number} ${"y".repeat(Math.floor(random() * 200))}`;
        const sent = room.send(text);
        printLine({ type: "tried", user, conversation: room.id, key: sent.key, text, number });
        const acknowledged = sent.acked
          .then(({ conversation, seq, at }) => printLine({ type: "acked", user, conversation, key: sent.key, seq, at }))
          .catch((error) =>
            printLine({
              type: "broken",
              what: `${sent.key} of ${user} failed for good: ${error.code} ${error.message}`,
            }),
          )
          .finally(() => unacknowledged.delete(sent.key));
        unacknowledged.set(sent.key, acknowledged);
      }
    }
    if (random() < 0.2) room.markRead();
    if (random() < 0.1) room.typing.set(true);
    setTimeout(sendNextMessage, -Math.log(1 - random()) * pause);
  };
  setTimeout(sendNextMessage, random() * pause);
  return { user, chat, rooms };
});

/** Waits until the list ends with this message. */
const roomEndsWith = (room, seq) =>
  new Promise((resolve) => {
    let stop;
    const checkLastSeq = (list) => {
      const last = list.filter((message) => message.seq !== undefined).at(-1)?.seq ?? 0;
      if (last >= seq) {
        resolve();
        queueMicrotask(() => stop());
      }
    };
    stop = room.messages.subscribe(checkLastSeq);
  });

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command === "settle") {
    settling = true;
    await Promise.allSettled(unacknowledged.values());
    printLine({ type: "settled" });
  } else {
    await Promise.all(
      chats.flatMap(({ chat, rooms }) => rooms.map((id) => roomEndsWith(chat.conversation(id), command.last[id] ?? 0))),
    );
    for (const { user, chat, rooms } of chats) {
      for (const id of rooms) {
        const room = chat.conversation(id);
        const messages = room.messages.getSnapshot().filter(({ seq }) => seq !== undefined);
        printLine({
          type: "screen",
          user,
          conversation: room.id,
          messages: messages.map(({ seq, key }) => [seq, key]),
        });
      }
    }
    printLine({ type: "done" });
    for (const { chat } of chats) chat.close();
    break;
  }
}
