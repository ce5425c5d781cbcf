// A scripted server with logs: conversations that a test writes into.

import { connect } from "@switchboard/client";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";

export { FakeClock, runPendingTasks };

const timeOfEvent = (n) => new Date(Date.UTC(2026, 0, 1) + n * 1_000).toISOString();

/** Computes the messages from the events of a log, by the rules of docs/protocol.md and without code of the SDK. */
export function foldLog(log) {
  const messages = new Map();
  for (const { type, target, from, on, seq, at, ...event } of log) {
    const targetMessage = messages.get(target);
    if (type === "message") messages.set(seq, { type, ...event, seq, from, at, reactions: new Map() });
    if (!targetMessage || targetMessage.deleted) continue;
    if (type === "edit") Object.assign(targetMessage, { text: event.text, edited: { seq, at } });
    if (type === "delete") {
      for (const name of ["text", "edited"]) delete targetMessage[name];
      Object.assign(targetMessage, { deleted: true, reactions: new Map() });
    }
    if (type === "react") {
      const emoji = event.emoji.replaceAll("\u{fe0f}", "");
      const users = new Set(targetMessage.reactions.get(emoji));
      if (on) users.add(from);
      else users.delete(from);
      if (users.size) targetMessage.reactions.set(emoji, users);
      else targetMessage.reactions.delete(emoji);
    }
  }
  const reactionsAsArrays = (reactions) =>
    Object.fromEntries([...reactions].map(([emoji, users]) => [emoji, [...users]]));
  return [...messages.values()].map(({ reactions, ...message }) => ({
    ...message,
    reactions: reactionsAsArrays(reactions),
  }));
}

export class LogServer extends FakeServer {
  /** The events of each conversation's log. */
  logs = new Map();
  readSeq = new Map();
  #replay;
  #page;
  #at = 0;
  /** Pushed events that the server delays; `undefined` if it delays none. */
  held;

  constructor({ user = "alice", replay = 1_000, page = 50, limits = {}, ...more } = {}) {
    super({ user, limits: { replay, page, ...limits }, ...more });
    this.user = user;
    this.#replay = replay;
    this.#page = page;
    this.on("hello", (frame, socket) => this.#hello(frame, socket));
    this.on("conversations", ({ before, limit }) => this.page(before, limit));
    this.on("sync", ({ conversation, after = 0, limit = 100 }) => this.sync(conversation, after, limit));
    this.on("history", (frame) => this.history(frame));
    this.on("send", ({ to, type, id, ...what }) =>
      this.#stored(this.store(to, { type: "message", from: user, ...what })),
    );
    for (const type of ["edit", "delete", "react", "join", "leave", "rename"]) {
      this.on(type, ({ conversation, id, ...event }) =>
        this.#stored(this.store(conversation, { from: user, ...event })),
      );
    }
    this.on("read", ({ conversation, upto }) => {
      this.readSeq.set(conversation, upto);
      return { conversation, upto };
    });
    this.on("received", ({ conversation, upto }) => ({ conversation, upto }));
  }

  /** Stores an event in a log without pushing it. */
  store(conversation, event) {
    const log = this.logs.get(conversation) ?? [];
    this.logs.set(conversation, log);
    const stored = { conversation, seq: log.length + 1, at: timeOfEvent(++this.#at), from: "bob", ...event };
    log.push(stored);
    return stored;
  }

  /** Stores an event in a log and pushes it. */
  write(conversation, event) {
    const stored = this.store(conversation, event);
    this.say(stored);
    return stored;
  }

  message(conversation, text, more = {}) {
    return this.write(conversation, { type: "message", key: `k${this.#at}`, text, ...more });
  }

  fill(conversation, count, from = "bob") {
    for (let n = 0; n < count; n++)
      this.store(conversation, { type: "message", from, key: `${conversation}${n}${this.#at}`, text: `${n}` });
  }

  summary(conversation) {
    const log = this.logs.get(conversation);
    const { seq: head, at } = log.at(-1);
    const readSeq = this.readSeq.get(conversation) ?? 0;
    const messages = log.filter(({ type }) => type === "message");
    const unread = messages.filter(({ seq, from }) => seq > readSeq && from !== this.user).length;
    const lastMessage = messages.at(-1);
    const room = conversation[0] === "#";
    return {
      conversation,
      role: "member",
      members: 2,
      head,
      at,
      read: readSeq,
      received: 0,
      unread,
      ...(room && { public: true, title: conversation.slice(1) }),
      ...(lastMessage && { last: lastMessage }),
    };
  }

  page(before, limit = this.#page) {
    const allSummaries = [...this.logs.keys()].map((id) => this.summary(id)).sort((a, b) => (a.at < b.at ? 1 : -1));
    const firstIndex =
      before === undefined ? 0 : allSummaries.findIndex(({ conversation }) => conversation === before) + 1;
    const pageSize = Math.min(limit, this.#page);
    return {
      conversations: allSummaries.slice(firstIndex, firstIndex + pageSize),
      more: allSummaries.length > firstIndex + pageSize,
    };
  }

  sync(conversation, after, limit) {
    const log = this.logs.get(conversation);
    if (!log) return { type: "error", code: "not_found", message: "no such conversation", retryable: false };
    if (after > log.length) return { type: "error", code: "bad_cursor", message: "past the head", retryable: false };
    const events = log.slice(after, after + limit);
    return { conversation, events, head: log.length, more: after + events.length < log.length };
  }

  history({ conversation, before = Infinity, around, limit = 50 }) {
    const log = this.logs.get(conversation);
    if (!log) return { type: "error", code: "not_found", message: "no such conversation", retryable: false };
    const allMessages = foldLog(log);
    if (around !== undefined) {
      const firstIndex = Math.max(0, allMessages.findIndex(({ seq }) => seq >= around) - limit / 2);
      const messages = allMessages.slice(firstIndex, firstIndex + limit);
      return {
        conversation,
        messages,
        head: log.length,
        more: firstIndex > 0,
        more_after: firstIndex + limit < allMessages.length,
      };
    }
    const earlierMessages = allMessages.filter(({ seq }) => seq < before);
    return {
      conversation,
      messages: earlierMessages.slice(-limit),
      head: log.length,
      more: earlierMessages.length > limit,
    };
  }

  #stored({ conversation, seq, at }) {
    return { conversation, seq, at };
  }

  #hello({ cursors = {} }, socket) {
    socket.say({ ...this.welcome, ...this.page() });
    for (const [conversation, after] of Object.entries(cursors)) {
      const log = this.logs.get(conversation);
      const failedReply = { type: "error", message: "…", retryable: false, conversation };
      if (!log) socket.say({ ...failedReply, code: "not_found" });
      else if (after > log.length) socket.say({ ...failedReply, code: "bad_cursor" });
      else if (log.length - after > this.#replay) socket.say({ type: "gap", conversation, after, head: log.length });
      else for (const event of log.slice(after)) socket.say(event);
    }
  }
}

/** A connected chat of alice on a scripted server; closed after the test. */
export async function startChat(t, server, options = {}, { now = true } = {}) {
  const clock = options.clock ?? new FakeClock();
  const { WebSocket } = server;
  const chat = connect("ws://chat.example", { user: server.user, outbox: null, WebSocket, clock, ...options });
  t.after(() => chat.close());
  const errors = [];
  chat.on("error", (error) => errors.push(error));
  if (now) chat.start();
  await runPendingTasks();
  /** Cuts the connection, calls `between`, and lets the chat reconnect. */
  const reconnect = async (whileOffline = () => {}) => {
    server.reachable = false;
    server.cut();
    await runPendingTasks();
    await whileOffline();
    await runPendingTasks();
    server.reachable = true;
    chat.reconnect();
    await runPendingTasks();
  };
  return { chat, clock, errors, comeBack: reconnect };
}

export const shownTexts = (room) => room.messages.getSnapshot().map(({ text }) => text);
