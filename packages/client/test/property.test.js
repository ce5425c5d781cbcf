// Lists and cursors under any order of frames: every list equals the one computed from the log, and every listener receives
// each event once, in order.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { startChat, foldLog, LogServer, runPendingTasks } from "./fake-log.js";

const HOSTILE_EMOJIS = ["__proto__", "constructor", "toString", "hasOwnProperty", "👍", "👍\u{fe0f}", "a"];
const USERS = ["alice", "bob", "constructor", "__proto"];

const listedFields = ({ seq, from, text, edited, deleted, reactions = {} }) => ({
  seq,
  from,
  text,
  edited,
  deleted: !!deleted,
  reactions: Object.entries(reactions).sort(([a], [b]) => (a < b ? -1 : 1)),
});

/** Random events, most of which are about one of a few messages. */
const arbitraryEvent = fc.record({
  type: fc.constantFrom("message", "message", "edit", "delete", "react", "react", "react", "rename", "withheld"),
  from: fc.constantFrom(...USERS),
  target: fc.integer({ min: 1, max: 12 }),
  emoji: fc.constantFrom(...HOSTILE_EMOJIS),
  on: fc.boolean(),
  text: fc.constantFrom(...HOSTILE_EMOJIS),
});

/** How each event arrives: in which order, how often, or not at all. */
const deliveryOfEvent = fc.record({
  order: fc.infiniteStream(fc.integer({ min: 0, max: 6 })),
  lost: fc.infiniteStream(fc.integer({ min: 0, max: 9 })),
  cuts: fc.infiniteStream(fc.integer({ min: 0, max: 12 })),
});

const frameOf = ({ type, from, target, emoji, on, text }, n) =>
  ({
    message: { type, from, key: `k${n}`, text },
    edit: { type, from, target, text },
    delete: { type, from, target },
    react: { type, from, target, emoji, on },
    rename: { type, from, title: text },
    withheld: { type, from, of: "message", withheld: "blocked" },
  })[type];

const nextValue = (stream) => stream.next().value;

test("any order, any loss, any cut: the list is the log's, and each event is heard once, in order", async (t) => {
  const runCount = Number(process.env.RUNS ?? 150);
  await fc.assert(
    fc.asyncProperty(
      fc.array(arbitraryEvent, { maxLength: 40 }),
      fc.integer({ min: 0, max: 10 }),
      deliveryOfEvent,
      async (events, known, how) => {
        const server = new LogServer({ replay: 10_000 });
        server.fill("#general", 1);
        for (const [n, one] of events.slice(0, known).entries()) server.store("#general", frameOf(one, `old${n}`));
        const { chat, clock, comeBack, errors } = await startChat(t, server);
        const room = chat.conversation("#general");
        const [heard, orders] = [[], []];
        room.on("event", ({ seq }) => heard.push(seq));
        room.messages.subscribe((list) => {
          const seqs = list.map(({ seq }) => seq).filter((seq) => seq !== undefined);
          orders.push(seqs.every((seq, i) => i === 0 || seq > seqs[i - 1]));
        });
        await clock.advance(100);
        const headAtStart = server.logs.get("#general").length;
        const heldBackEvents = [];
        for (const [n, one] of events.slice(known).entries()) {
          const stored = server.store("#general", frameOf(one, `new${n}`));
          if (nextValue(how.lost)) heldBackEvents.splice(nextValue(how.order) % (heldBackEvents.length + 1), 0, stored);
          if (nextValue(how.order) > 2) for (const late of heldBackEvents.splice(0)) server.say(late);
          if (nextValue(how.lost) === 1 && stored) server.say(stored);
          if (nextValue(how.cuts) === 0) await comeBack();
          else await runPendingTasks(5);
        }
        for (const late of heldBackEvents) server.say(late);
        // The last event is not lost, so the SDK notices a gap before it.
        server.message("#general", "the end");
        await clock.advance(5_000);
        const log = server.logs.get("#general");
        assert.deepEqual(room.messages.getSnapshot().map(listedFields), foldLog(log).map(listedFields));
        assert.deepEqual(
          heard,
          log.slice(headAtStart).map(({ seq }) => seq),
        );
        assert.ok(orders.every(Boolean), "never out of order");
        assert.deepEqual(errors, []);
        chat.close();
      },
    ),
    { numRuns: runCount, ...(process.env.SEED && { seed: Number(process.env.SEED) }) },
  );
});

/** Steps while a list is trimmed: messages arrive, earlier pages are requested, and are answered late or refused. */
const arbitraryStep = fc.oneof(
  fc.record({ live: fc.integer({ min: 1, max: 60 }) }),
  fc.constantFrom({ ask: true }, { ask: true }, { answer: true }, { refuse: true }),
);

test("earlier pages while new messages trim the list: never a hole", async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 940, max: 1_010 }),
      fc.array(arbitraryStep, { maxLength: 12 }),
      async (first, steps) => {
        const server = new LogServer();
        server.fill("#general", 150);
        const { chat, clock } = await startChat(t, server);
        const room = chat.conversation("#general");
        room.messages.subscribe(() => {});
        await runPendingTasks();
        const receiveLive = async (count) => {
          for (let n = 0; n < count; n++) server.message("#general", "live");
          await runPendingTasks(5);
        };
        await receiveLive(first);
        const heldBackRequests = [];
        server.on("history", (frame, socket) => {
          const page = server.history(frame);
          const refused = { type: "error", id: frame.id, code: "internal", message: "…", retryable: false };
          heldBackRequests.push((ok) => socket.say(ok ? { type: "ok", id: frame.id, ...page } : refused));
        });
        for (const { live: count, ask, answer } of [...steps, { live: 60 }, { answer: true }]) {
          if (count) await receiveLive(count);
          else if (ask) room.loadOlder().catch(() => {});
          else heldBackRequests.shift()?.(!!answer);
          await runPendingTasks(5);
          const seqs = room.messages.getSnapshot().map(({ seq }) => seq);
          const head = server.logs.get("#general").length;
          assert.deepEqual(
            seqs,
            Array.from(seqs, (_, n) => head - seqs.length + 1 + n),
          );
        }
        // A list is not trimmed while a page is requested; the first message after the page's arrival trims it.
        while (heldBackRequests.length) {
          heldBackRequests.shift()(true);
          await runPendingTasks(5);
        }
        await receiveLive(1);
        const [kept, earlier, page] = [1_000, 150, 100];
        assert.ok(room.messages.getSnapshot().length <= kept + earlier + page);
        chat.close();
        await clock.advance(0);
      },
    ),
    { numRuns: Number(process.env.RUNS ?? 30), ...(process.env.SEED && { seed: Number(process.env.SEED) }) },
  );
});
