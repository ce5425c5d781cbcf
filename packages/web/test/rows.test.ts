import assert from "node:assert/strict";
import { test } from "node:test";
import type { ChatMessage, Notice } from "@switchboard/client";
import { lastOwn, receiptOf } from "../src/log/receipt.js";
import { Rows } from "../src/log/rows.js";
import { MAX_ROWS, Span } from "../src/log/span.js";

/** Makes a message that was sent `minutes` after noon. */
function messageOf(seq: number, from: string, minutes = 0, more: Partial<ChatMessage> = {}): ChatMessage {
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

const shownRows = (messages: (ChatMessage | Notice)[], mark?: number, previous?: ChatMessage) =>
  new Rows()
    .build(messages, previous, mark, "me")
    .map((row) => (row.kind === "message" ? `${row.message.seq}${row.first ? "!" : ""}` : row.kind))
    .join(" ");

/** A notice that a user joined or left, `minutes` after noon. */
function noticeOf(seq: number, from: string, minutes = 0, type: Notice["type"] = "join"): Notice {
  const at = new Date(2026, 10, 25, 12, minutes).toISOString();
  return { kind: "notice", id: `notice/${seq}`, seq, from, at, type };
}

test("joins in a row are one line, which ends a group of messages", () => {
  assert.equal(
    shownRows([messageOf(1, "a"), noticeOf(2, "b"), noticeOf(3, "c"), noticeOf(4, "d", 0, "leave"), messageOf(5, "a")]),
    "day 1! event event 5!",
  );
});

test("the last message of a group is known before the next group, an unread line, a notice, and the end", () => {
  const lastOfGroupFlags = (items: (ChatMessage | Notice)[], mark?: number) =>
    new Rows()
      .build(items, undefined, mark, "me")
      .flatMap((row) => (row.kind === "message" && row.last ? [row.message.seq] : []));
  assert.deepEqual(
    lastOfGroupFlags([messageOf(1, "a"), messageOf(2, "a"), messageOf(3, "b"), messageOf(4, "b", 9)]),
    [2, 3, 4],
  );
  assert.deepEqual(lastOfGroupFlags([messageOf(1, "a"), messageOf(2, "a")], 1), [1, 2]);
  assert.deepEqual(lastOfGroupFlags([messageOf(1, "a"), noticeOf(2, "b"), messageOf(3, "a")]), [1, 3]);
});

test("messages of one author within some minutes are grouped", () => {
  assert.equal(
    shownRows([
      messageOf(1, "a"),
      messageOf(2, "a", 5),
      messageOf(3, "a", 11),
      messageOf(4, "b", 11),
      messageOf(5, "a", 11),
    ]),
    "day 1! 2 3! 4! 5!",
  );
});

test("a reply begins a new group", () => {
  assert.equal(shownRows([messageOf(1, "a"), messageOf(2, "a", 0, { replyTo: 1 }), messageOf(3, "a")]), "day 1! 2! 3");
});

test("a day begins with a line, also after a message that is not drawn", () => {
  assert.equal(shownRows([messageOf(1, "a"), messageOf(2, "a", 24 * 60)]), "day 1! day 2!");
  assert.equal(shownRows([messageOf(2, "a", 1)], undefined, messageOf(1, "a")), "2");
  assert.equal(shownRows([messageOf(2, "a", 24 * 60)], undefined, messageOf(1, "a")), "day 2!");
});

test("the unread line is before the first later message of another user, once", () => {
  assert.equal(
    shownRows([messageOf(1, "a"), messageOf(2, "me"), messageOf(3, "a"), messageOf(4, "a")], 1),
    "day 1! 2! unread 3! 4",
  );
  assert.equal(shownRows([messageOf(1, "a"), messageOf(2, "me")], 1), "day 1! 2!");
  assert.equal(shownRows([messageOf(3, "a")], 1, messageOf(2, "a")), "3");
});

test("a row is the same object until its message changes", () => {
  const rows = new Rows();
  const [one, two] = [messageOf(1, "a"), messageOf(2, "a")];
  const rowsBefore = rows.build([one, two], undefined, undefined, "me");
  const rowsAfter = rows.build([one, { ...two, text: "changed" }], undefined, undefined, "me");
  assert.equal(rowsAfter[1], rowsBefore[1]);
  assert.notEqual(rowsAfter[2], rowsBefore[2]);
});

const messageList = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => ({ id: `${from + index}` }));

test("the span moves both ways, keeps its bound, and keeps its place when earlier pages are loaded", () => {
  const span = new Span();
  let allMessages = messageList(1000, 2000);
  assert.deepEqual(span.of(allMessages), [940, 1000]);
  while (span.older(allMessages)) assert.ok(span.of(allMessages)[1] - span.of(allMessages)[0] <= MAX_ROWS);
  assert.deepEqual(span.of(allMessages), [0, MAX_ROWS]);
  assert.equal(span.atEnd, false);
  allMessages = [...messageList(900, 1000), ...allMessages];
  assert.deepEqual(span.of(allMessages), [100, 100 + MAX_ROWS]);
  while (span.newer(allMessages)) assert.ok(span.of(allMessages)[1] - span.of(allMessages)[0] <= MAX_ROWS);
  assert.deepEqual(span.of(allMessages), [allMessages.length - MAX_ROWS, allMessages.length]);
  assert.equal(span.atEnd, true);
});

test("drawn rows stay as messages arrive, up to the bound", () => {
  const span = new Span();
  span.trim(messageList(0, 80), true);
  assert.deepEqual(span.of(messageList(0, 80)), [20, 80]);
  span.trim(messageList(0, 180), true);
  assert.deepEqual(span.of(messageList(0, 180)), [20, 180]);
  span.trim(messageList(0, 300), true);
  assert.deepEqual(span.of(messageList(0, 300)), [300 - MAX_ROWS, 300]);
});

test("new messages replace the oldest rows, or are not drawn while the user reads further up", () => {
  const allMessages = messageList(0, MAX_ROWS + 100);
  const readerSpan = new Span();
  while (readerSpan.older(allMessages.slice(0, MAX_ROWS)));
  readerSpan.trim(allMessages, true);
  assert.deepEqual(readerSpan.of(allMessages), [100, MAX_ROWS + 100]);
  const scrolledUpSpan = new Span();
  while (scrolledUpSpan.older(allMessages.slice(0, MAX_ROWS)));
  scrolledUpSpan.trim(allMessages, false);
  assert.deepEqual(scrolledUpSpan.of(allMessages), [0, MAX_ROWS]);
  assert.equal(scrolledUpSpan.atEnd, false);
  scrolledUpSpan.latest();
  assert.equal(scrolledUpSpan.of(allMessages)[1], allMessages.length);
});

test("a rebuilt list is shown from its end", () => {
  const span = new Span();
  span.older(messageList(0, 500));
  assert.deepEqual(span.of(messageList(1000, 1030)), [0, 30]);
  assert.ok(span.around(messageList(0, 500), "250"));
  assert.ok(!span.around(messageList(0, 500), "900"));
});

test("a receipt shows how far a message was delivered", () => {
  const memberAt = (user: string, read: number, received: number) => ({
    user,
    role: "member" as const,
    read,
    received,
  });
  const ownMessage = messageOf(5, "me");
  assert.deepEqual(receiptOf(ownMessage, [memberAt("me", 5, 5), memberAt("a", 4, 4)], "me", true), {
    reached: "sent",
    readers: [],
  });
  assert.equal(receiptOf(ownMessage, [memberAt("a", 4, 5)], "me", true)?.reached, "delivered");
  assert.equal(receiptOf(ownMessage, [memberAt("a", 4, 5)], "me", false)?.reached, "sent");
  assert.deepEqual(receiptOf(ownMessage, [memberAt("a", 5, 5), memberAt("b", 9, 9)], "me", false), {
    reached: "read",
    readers: ["a", "b"],
  });
  const { seq: _, ...pending } = ownMessage;
  assert.equal(receiptOf(pending, [], "me", true), undefined);
  assert.equal(
    lastOwn([messageOf(1, "me"), messageOf(2, "me", 0, { deleted: true }), messageOf(3, "a")], "me")?.seq,
    1,
  );
});
