// A chat with an outbox on a scripted server, and a storage that a test can inspect and break.

import { connect } from "@switchboard/client";
import { FakeClock, runPendingTasks } from "./fake-socket.js";

export const base64UrlJson = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
export const jwt = (claims) => `${base64UrlJson({ alg: "HS256" })}.${base64UrlJson(claims)}.c2lnbmF0dXJl`;

/** A storage of an app, which a test can inspect and break. */
export function memoryStorage() {
  const entriesByScope = new Map();
  const recordedCalls = [];
  const entriesOfScope = (scope) => entriesByScope.get(scope) ?? entriesByScope.set(scope, new Map()).get(scope);
  const storage = {
    kept: entriesByScope,
    calls: recordedCalls,
    broken: undefined,
    async load(scope) {
      recordedCalls.push(["load", scope]);
      if (storage.broken) throw storage.broken;
      return structuredClone([...entriesOfScope(scope).values()]);
    },
    async put(scope, entry) {
      recordedCalls.push(["put", scope, entry.key]);
      if (storage.broken) throw storage.broken;
      entriesOfScope(scope).set(entry.key, structuredClone(entry));
    },
    async delete(scope, key) {
      recordedCalls.push(["delete", scope, key]);
      if (storage.broken) throw storage.broken;
      entriesOfScope(scope).delete(key);
    },
    /** All stored entries of all users. */
    all: () =>
      [...entriesByScope].flatMap(([scope, entries]) => [...entries.values()].map((entry) => ({ scope, ...entry }))),
  };
  return storage;
}

export const SCOPE = "ws://chat.example/v1/ws alice";

/** A started chat of alice on a scripted server; closed after the test. */
export async function startOutboxChat(t, server, options = {}) {
  const clock = options.clock ?? new FakeClock();
  const { WebSocket } = server;
  const chat = connect("ws://chat.example", { user: "alice", WebSocket, clock, outbox: null, ...options });
  t.after(() => chat.close());
  const errors = [];
  chat.on("error", (error) => errors.push(error));
  chat.start();
  await runPendingTasks();
  return { chat, clock, errors, room: chat.conversation("#general") };
}

/** Keeps the process alive while a test waits for the channel between tabs, which does not keep it alive. */
export function keepProcessAlive(t) {
  const timer = setInterval(() => {}, 1_000);
  t.after(() => clearInterval(timer));
}

export const refusedAnswer = (code, more = {}) => ({
  type: "error",
  code,
  message: `it is ${code}`,
  retryable: false,
  ...more,
});
export const storedAnswer = (seq, more = {}) => ({
  conversation: "#general",
  seq,
  at: "2026-01-01T00:00:00.000Z",
  ...more,
});
