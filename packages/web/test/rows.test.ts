import assert from "node:assert/strict";
import { test } from "node:test";
import type { ChatMessage, Notice } from "@switchboard/client";
import { lastOwn, receiptOf } from "../src/log/receipt.js";
import { Rows } from "../src/log/rows.js";
import { MAX_ROWS, Span } from "../src/log/span.js";

/** Makes a message that was sent `minutes` after noon. */
function said(seq: number, from: string, minutes = 0, more: Partial<ChatMessage> = {}): ChatMessage {
  const at = new Date(2026, 10, 25, 12, minutes).toISOString();
  return {
    kind: "message",
    id: `${from}/${seq}`,
    seq,
    from,
    at,
    text: `${seq}`,
    reactions: {},
    state: "sent",
    ...more,
  };
}

const shown = (messages: (ChatMessage | Notice)[], mark?: number, previous?: ChatMessage) =>
  new Rows()
    .build(messages, previous, mark, "me")
    .map((row) => (row.kind === "message" ? `${row.message.seq}${row.first ? "!" : ""}` : row.kind))
    .join(" ");

/** A notice that a user joined or left, `minutes` after noon. */
function joined(seq: number, from: string, minutes = 0, type: Notice["type"] = "join"): Notice {
  const at = new Date(2026, 10, 25, 12, minutes).toISOString();
  return { kind: "notice", id: `notice/${seq}`, seq, from, at, type };
}

test("joins in a row are one line, which ends a group of messages", () => {
  assert.equal(
    shown([said(1, "a"), joined(2, "b"), joined(3, "c"), joined(4, "d", 0, "leave"), said(5, "a")]),
    "day 1! event event 5!",
  );
});

test("the last message of a group is known before the next group, an unread line, a notice, and the end", () => {
  const lasts = (items: (ChatMessage | Notice)[], mark?: number) =>
    new Rows()
      .build(items, undefined, mark, "me")
      .flatMap((row) => (row.kind === "message" && row.last ? [row.message.seq] : []));
  assert.deepEqual(lasts([said(1, "a"), said(2, "a"), said(3, "b"), said(4, "b", 9)]), [2, 3, 4]);
  assert.deepEqual(lasts([said(1, "a"), said(2, "a")], 1), [1, 2]);
  assert.deepEqual(lasts([said(1, "a"), joined(2, "b"), said(3, "a")]), [1, 3]);
});

test("messages of one author within some minutes are grouped", () => {
  assert.equal(
    shown([said(1, "a"), said(2, "a", 5), said(3, "a", 11), said(4, "b", 11), said(5, "a", 11)]),
    "day 1! 2 3! 4! 5!",
  );
});

test("a reply begins a new group", () => {
  assert.equal(shown([said(1, "a"), said(2, "a", 0, { replyTo: 1 }), said(3, "a")]), "day 1! 2! 3");
});

test("a day begins with a line, also after a message that is not drawn", () => {
  assert.equal(shown([said(1, "a"), said(2, "a", 24 * 60)]), "day 1! day 2!");
  assert.equal(shown([said(2, "a", 1)], undefined, said(1, "a")), "2");
  assert.equal(shown([said(2, "a", 24 * 60)], undefined, said(1, "a")), "day 2!");
});

test("the unread line is before the first later message of another user, once", () => {
  assert.equal(shown([said(1, "a"), said(2, "me"), said(3, "a"), said(4, "a")], 1), "day 1! 2! unread 3! 4");
  assert.equal(shown([said(1, "a"), said(2, "me")], 1), "day 1! 2!");
  assert.equal(shown([said(3, "a")], 1, said(2, "a")), "3");
});

test("a row is the same object until its message changes", () => {
  const rows = new Rows();
  const [one, two] = [said(1, "a"), said(2, "a")];
  const before = rows.build([one, two], undefined, undefined, "me");
  const after = rows.build([one, { ...two, text: "changed" }], undefined, undefined, "me");
  assert.equal(after[1], before[1]);
  assert.notEqual(after[2], before[2]);
});

const list = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => ({ id: `${from + index}` }));

test("the span moves both ways, keeps its bound, and keeps its place when earlier pages are loaded", () => {
  const span = new Span();
  let all = list(1000, 2000);
  assert.deepEqual(span.of(all), [940, 1000]);
  while (span.older(all)) assert.ok(span.of(all)[1] - span.of(all)[0] <= MAX_ROWS);
  assert.deepEqual(span.of(all), [0, MAX_ROWS]);
  assert.equal(span.atEnd, false);
  all = [...list(900, 1000), ...all];
  assert.deepEqual(span.of(all), [100, 100 + MAX_ROWS]);
  while (span.newer(all)) assert.ok(span.of(all)[1] - span.of(all)[0] <= MAX_ROWS);
  assert.deepEqual(span.of(all), [all.length - MAX_ROWS, all.length]);
  assert.equal(span.atEnd, true);
});

test("drawn rows stay as messages arrive, up to the bound", () => {
  const span = new Span();
  span.trim(list(0, 80), true);
  assert.deepEqual(span.of(list(0, 80)), [20, 80]);
  span.trim(list(0, 180), true);
  assert.deepEqual(span.of(list(0, 180)), [20, 180]);
  span.trim(list(0, 300), true);
  assert.deepEqual(span.of(list(0, 300)), [300 - MAX_ROWS, 300]);
});

test("new messages replace the oldest rows, or are not drawn while the user reads further up", () => {
  const all = list(0, MAX_ROWS + 100);
  const read = new Span();
  while (read.older(all.slice(0, MAX_ROWS)));
  read.trim(all, true);
  assert.deepEqual(read.of(all), [100, MAX_ROWS + 100]);
  const up = new Span();
  while (up.older(all.slice(0, MAX_ROWS)));
  up.trim(all, false);
  assert.deepEqual(up.of(all), [0, MAX_ROWS]);
  assert.equal(up.atEnd, false);
  up.latest();
  assert.equal(up.of(all)[1], all.length);
});

test("a rebuilt list is shown from its end", () => {
  const span = new Span();
  span.older(list(0, 500));
  assert.deepEqual(span.of(list(1000, 1030)), [0, 30]);
  assert.ok(span.around(list(0, 500), "250"));
  assert.ok(!span.around(list(0, 500), "900"));
});

test("a receipt shows how far a message was delivered", () => {
  const member = (user: string, read: number, received: number) => ({ user, role: "member" as const, read, received });
  const mine = said(5, "me");
  assert.deepEqual(receiptOf(mine, [member("me", 5, 5), member("a", 4, 4)], "me", true), {
    reached: "sent",
    readers: [],
  });
  assert.equal(receiptOf(mine, [member("a", 4, 5)], "me", true)?.reached, "delivered");
  assert.equal(receiptOf(mine, [member("a", 4, 5)], "me", false)?.reached, "sent");
  assert.deepEqual(receiptOf(mine, [member("a", 5, 5), member("b", 9, 9)], "me", false), {
    reached: "read",
    readers: ["a", "b"],
  });
  const { seq: _, ...pending } = mine;
  assert.equal(receiptOf(pending, [], "me", true), undefined);
  assert.equal(lastOwn([said(1, "me"), said(2, "me", 0, { deleted: true }), said(3, "a")], "me")?.seq, 1);
});
