import assert from "node:assert/strict";
import { test } from "node:test";
import type { ChatMessage } from "@switchboard/client";
import { lastOwn, receiptOf } from "../src/log/receipt.js";
import { Rows } from "../src/log/rows.js";
import { MOST, Span } from "../src/log/span.js";

/** A message of somebody at so many minutes after noon. */
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

const shown = (messages: ChatMessage[], mark?: number, previous?: ChatMessage) =>
  new Rows()
    .make(messages, previous, mark, "me")
    .map((row) => (row.kind === "message" ? `${row.message.seq}${row.first ? "!" : ""}` : row.kind))
    .join(" ");

test("messages of one author within some minutes stand together", () => {
  assert.equal(
    shown([said(1, "a"), said(2, "a", 5), said(3, "a", 11), said(4, "b", 11), said(5, "a", 11)]),
    "day 1! 2 3! 4! 5!",
  );
});

test("an answer stands for itself", () => {
  assert.equal(shown([said(1, "a"), said(2, "a", 0, { replyTo: 1 }), said(3, "a")]), "day 1! 2! 3");
});

test("a day begins with a line, also behind what is not shown", () => {
  assert.equal(shown([said(1, "a"), said(2, "a", 24 * 60)]), "day 1! day 2!");
  assert.equal(shown([said(2, "a", 1)], undefined, said(1, "a")), "2");
  assert.equal(shown([said(2, "a", 24 * 60)], undefined, said(1, "a")), "day 2!");
});

test("the unread line stands before the first later message of somebody else, once", () => {
  assert.equal(shown([said(1, "a"), said(2, "me"), said(3, "a"), said(4, "a")], 1), "day 1! 2! unread 3! 4");
  assert.equal(shown([said(1, "a"), said(2, "me")], 1), "day 1! 2!");
  assert.equal(shown([said(3, "a")], 1, said(2, "a")), "3");
});

test("a row is the same object until its message changes", () => {
  const rows = new Rows();
  const [one, two] = [said(1, "a"), said(2, "a")];
  const before = rows.make([one, two], undefined, undefined, "me");
  const after = rows.make([one, { ...two, text: "changed" }], undefined, undefined, "me");
  assert.equal(after[1], before[1]);
  assert.notEqual(after[2], before[2]);
});

const list = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => ({ id: `${from + index}` }));

test("the span moves both ways, holds its bound, and stays where it is when pages come in front", () => {
  const span = new Span();
  let all = list(1000, 2000);
  assert.deepEqual(span.of(all), [940, 1000]);
  while (span.older(all)) assert.ok(span.of(all)[1] - span.of(all)[0] <= MOST);
  assert.deepEqual(span.of(all), [0, MOST]);
  assert.equal(span.atEnd, false);
  all = [...list(900, 1000), ...all];
  assert.deepEqual(span.of(all), [100, 100 + MOST]);
  while (span.newer(all)) assert.ok(span.of(all)[1] - span.of(all)[0] <= MOST);
  assert.deepEqual(span.of(all), [all.length - MOST, all.length]);
  assert.equal(span.atEnd, true);
});

test("what is drawn stays as messages come, up to the bound", () => {
  const span = new Span();
  span.trim(list(0, 80), true);
  assert.deepEqual(span.of(list(0, 80)), [20, 80]);
  span.trim(list(0, 180), true);
  assert.deepEqual(span.of(list(0, 180)), [20, 180]);
  span.trim(list(0, 300), true);
  assert.deepEqual(span.of(list(0, 300)), [300 - MOST, 300]);
});

test("new messages push out the oldest ones, or are not drawn while somebody reads further up", () => {
  const all = list(0, MOST + 100);
  const read = new Span();
  while (read.older(all.slice(0, MOST)));
  read.trim(all, true);
  assert.deepEqual(read.of(all), [100, MOST + 100]);
  const up = new Span();
  while (up.older(all.slice(0, MOST)));
  up.trim(all, false);
  assert.deepEqual(up.of(all), [0, MOST]);
  assert.equal(up.atEnd, false);
  up.latest();
  assert.equal(up.of(all)[1], all.length);
});

test("a list that was rebuilt is shown from its end", () => {
  const span = new Span();
  span.older(list(0, 500));
  assert.deepEqual(span.of(list(1000, 1030)), [0, 30]);
  assert.ok(span.around(list(0, 500), "250"));
  assert.ok(!span.around(list(0, 500), "900"));
});

test("a receipt tells how far a message has come", () => {
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
