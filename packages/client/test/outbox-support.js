// A chat with an outbox on a scripted server, and a storage that a test can inspect and break.

import { connect } from "@switchboard/client";
import { FakeClock, runPendingTasks } from "./fake-socket.js";

export const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
export const jwt = (claims) => `${part({ alg: "HS256" })}.${part(claims)}.c2lnbmF0dXJl`;

/** A storage of an app, which a test can inspect and break. */
export function memoryStorage() {
  const kept = new Map();
  const calls = [];
  const of = (scope) => kept.get(scope) ?? kept.set(scope, new Map()).get(scope);
  const storage = {
    kept,
    calls,
    broken: undefined,
    async load(scope) {
      calls.push(["load", scope]);
      if (storage.broken) throw storage.broken;
      return structuredClone([...of(scope).values()]);
    },
    async put(scope, entry) {
      calls.push(["put", scope, entry.key]);
      if (storage.broken) throw storage.broken;
      of(scope).set(entry.key, structuredClone(entry));
    },
    async delete(scope, key) {
      calls.push(["delete", scope, key]);
      if (storage.broken) throw storage.broken;
      of(scope).delete(key);
    },
    /** All stored entries of all users. */
    all: () => [...kept].flatMap(([scope, entries]) => [...entries.values()].map((entry) => ({ scope, ...entry }))),
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
