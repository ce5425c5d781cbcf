// Tokens: when the token function is called, how its result is checked, and what ends the attempts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, UnauthorizedError } from "@switchboard/client";
import { FakeClock, FakeServer, runPendingTasks } from "./fake-socket.js";
import { untilOnline, Server, until, connectionGroup } from "./support.js";

const SECRET = "a secret of the tests that is long enough";
const PRODUCTION_SERVER_OPTIONS = { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } };

const base64UrlJson = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const jwt = (claims) => `${base64UrlJson({ alg: "HS256" })}.${base64UrlJson({ sub: "alice", ...claims })}.c2lnbmF0dXJl`;

/** A started chat on a scripted server. */
async function startTokenChat(t, server, options) {
  const clock = options.clock ?? new FakeClock();
  const chat = connect("ws://chat.example", { outbox: null, WebSocket: server.WebSocket, clock, ...options });
  t.after(() => chat.close());
  chat.start();
  await runPendingTasks();
  return { chat, clock, state: () => chat.status.getSnapshot() };
}

const untilOffline = (chat) => until(chat.status, ({ state }) => state === "offline");

test("a token is asked for once, and again from 30 s before it ends", async (t) => {
  const server = new FakeServer();
  const clock = new FakeClock();
  let tokenRequests = 0;
  const token = () => jwt({ n: ++tokenRequests, exp: (clock.wall() + 600_000) / 1_000 });
  const { state } = await startTokenChat(t, server, { token, clock });
  for (let n = 0; n < 20; n++) {
    server.cut();
    await runPendingTasks();
    await clock.advance(state().retryIn);
    assert.equal(state().state, "online");
  }
  assert.equal(tokenRequests, 1, "21 connections, one token");
  assert.ok(clock.now() < 560_000);
  for (const [until, times] of [
    [569_000, 1],
    [571_000, 2],
  ]) {
    await clock.advance(until - clock.now());
    server.reachable = true;
    server.cut();
    await runPendingTasks();
    // The backoff is at most 20 s. The token is checked at the time of the attempt.
    const isWaitForTokenEnd = clock.now() + state().retryIn < 570_000;
    await clock.advance(state().retryIn);
    assert.equal(tokenRequests, isWaitForTokenEnd ? 1 : 2);
    if (times === 2) assert.equal(tokenRequests, 2);
  }
  assert.deepEqual(
    new Set(server.sent("hello").map((hello) => JSON.parse(atob(hello.token.split(".")[1])).n)),
    new Set([1, 2]),
  );
});

test("a token is not kept for longer than it lives, although the device's clock is an hour slow", async (t) => {
  const server = new FakeServer();
  const clock = new FakeClock();
  let tokenRequests = 0;
  const issued = clock.wall() / 1_000;
  clock.offset -= 3_600_000;
  const token = () => (tokenRequests++, jwt({ iat: issued, exp: issued + 120 }));
  const { state } = await startTokenChat(t, server, { token, clock });
  await clock.advance(91_000);
  server.cut();
  await runPendingTasks();
  await clock.advance(state().retryIn);
  assert.equal(tokenRequests, 2);
});

test("a token that the server does not take is replaced once; then it is final", async (t) => {
  const server = new FakeServer();
  const acceptedTokens = new Set(["first.good.token"]);
  server.on("hello", ({ token }, socket) => {
    if (acceptedTokens.has(token)) return server.welcome;
    socket.say({ type: "error", code: "unauthorized", message: "the token is wrong: signature", retryable: false });
    socket.end(4501, "unauthorized");
  });
  const tokensToGive = ["first.good.token", "second.bad.token", "third.bad.token"];
  let tokenRequests = 0;
  const { clock, state } = await startTokenChat(t, server, { token: () => tokensToGive[tokenRequests++] });
  assert.equal(state().state, "online");
  acceptedTokens.clear();
  server.cut();
  await runPendingTasks();
  // The server refuses the token of the first connection, and then also the second one; no third one is requested.
  await clock.advance(60_000);
  assert.equal(tokenRequests, 2);
  assert.deepEqual(
    [state().state, state().code, state().retryIn, state().error.code, state().reason],
    ["offline", 4501, undefined, "unauthorized", "the token is wrong: signature"],
  );
});

test("a token that is refused is not used again, although a proxy hides the close code", async (t) => {
  const server = new FakeServer();
  const givenTokens = [];
  server.on("hello", ({ token }, socket) => {
    givenTokens.push(token);
    if (givenTokens.length > 1) return server.welcome;
    socket.say({ type: "error", code: "unauthorized", message: "the token is wrong", retryable: false });
    socket.end(1006, "");
  });
  let tokenRequests = 0;
  const { clock, state } = await startTokenChat(t, server, { token: () => `a.${++tokenRequests}.c` });
  await clock.advance(state().retryIn);
  assert.deepEqual([givenTokens, state().state], [["a.1.c", "a.2.c"], "online"]);
});

test("a token that ended is asked for anew; `error` says nothing of it, for nobody needs to sign in", async (t) => {
  const server = new FakeServer();
  let tokenRequests = 0;
  const { clock, state } = await startTokenChat(t, server, { token: () => `a.${++tokenRequests}.c` });
  for (let n = 0; n < 3; n++) {
    server.cut(4401, "the token has expired");
    await runPendingTasks();
    assert.equal(state().error, undefined);
    await clock.advance(state().retryIn);
    assert.equal(state().state, "online");
  }
  assert.equal(tokenRequests, 4);
});

test("a static token that ended is final, and the error says what to do", async (t) => {
  const server = new FakeServer();
  const { clock, state } = await startTokenChat(t, server, { token: jwt({}) });
  server.cut(4401, "token expired");
  await runPendingTasks();
  assert.deepEqual([state().retryIn, state().error.code], [undefined, "unauthorized"]);
  assert.match(state().reason, /the token has ended.*`token` as a function/);
  await clock.advance(600_000);
  assert.equal(server.sockets.length, 1);
});

test("logged out everywhere (4502) is final at once, and no token is asked for", async (t) => {
  const server = new FakeServer();
  let tokenRequests = 0;
  const { chat, clock, state } = await startTokenChat(t, server, { token: () => `a.${++tokenRequests}.c` });
  server.cut(4502, "logged out everywhere");
  await runPendingTasks();
  assert.deepEqual([state().retryIn, state().error.code], [undefined, "unauthorized"]);
  await clock.advance(600_000);
  assert.equal(tokenRequests, 1);
  // The user signs in again.
  chat.reconnect();
  await runPendingTasks();
  assert.deepEqual([tokenRequests, state().state], [2, "online"]);
});

test("a token function that hangs is given up after 30 s, by a clock that nobody sets, and asked again", async (t) => {
  const server = new FakeServer();
  const clock = new FakeClock();
  const abortSignals = [];
  const token = ({ signal }) => {
    abortSignals.push(signal);
    return abortSignals.length < 2 ? new Promise(() => {}) : "a.b.c";
  };
  const { state } = await startTokenChat(t, server, { token, clock });
  clock.offset -= 3_600_000;
  await clock.advance(29_900);
  assert.deepEqual([state().state, abortSignals[0].aborted], ["connecting", false]);
  await clock.advance(1_000);
  assert.equal(abortSignals[0].aborted, true);
  assert.deepEqual([abortSignals.length, state().state], [2, "online"]);
});

test("reconnect() while a token function hangs asks it again, and ends the first", async (t) => {
  const server = new FakeServer();
  const abortSignals = [];
  const token = ({ signal }) => {
    abortSignals.push(signal);
    return abortSignals.length < 2 ? new Promise(() => {}) : "a.b.c";
  };
  const { chat, state } = await startTokenChat(t, server, { token });
  assert.equal(state().state, "connecting");
  chat.reconnect();
  await runPendingTasks();
  assert.deepEqual([abortSignals[0].aborted, abortSignals[1].aborted, state().state], [true, false, "online"]);
  chat.close();
});

test("close() ends what the token function does", async (t) => {
  const server = new FakeServer();
  let given;
  const { chat } = await startTokenChat(t, server, {
    token: ({ signal }) => ((given = signal), new Promise(() => {})),
  });
  chat.close();
  assert.equal(given.aborted, true);
});

test("what is no token is said so, and never sent; a newline at its end is not part of it", async (t) => {
  for (const [answer, shown] of [
    ["<!doctype html><title>Sign in</title>", /a token is a JWT, and not "<!doctype html>/],
    [{ token: "a.b.c" }, /a token is a JWT, and not object/],
    [undefined, /a token is a JWT, and not undefined/],
    ["", /a token is a JWT, and not ""/],
  ]) {
    const server = new FakeServer();
    const { state } = await startTokenChat(t, server, { token: () => answer });
    assert.match(state().reason, shown);
    assert.ok(state().retryIn >= 0, "it is asked again");
    assert.equal(server.sockets.length, 0);
  }
  const server = new FakeServer();
  await startTokenChat(t, server, { token: async () => "a.b.c\n" });
  assert.equal(server.sent("hello")[0].token, "a.b.c");
});

test("tokens on a real server: a throw is tried again, `UnauthorizedError` is not, one that ends is replaced", async (t) => {
  const server = await Server.start(t, PRODUCTION_SERVER_OPTIONS);
  const { WebSocket, cut } = connectionGroup();
  let tokenRequests = 0;
  const startChat = (options) => {
    const chat = connect(server.url, options);
    t.after(() => chat.close());
    return chat;
  };
  const alice = startChat({
    WebSocket,
    token: async () => {
      if (++tokenRequests === 1) throw new Error("the back end is down");
      return server.token("alice");
    },
  });
  const { reason, retryIn } = await until(alice.status, ({ state }) => state === "offline");
  assert.match(reason, /the back end is down/);
  assert.ok(retryIn >= 0 && retryIn <= 500, `${retryIn}`);
  await untilOnline(alice);
  cut();
  await untilOffline(alice);
  await untilOnline(alice);
  assert.equal(tokenRequests, 2, "the second is kept");

  const withoutToken = startChat({
    token: () => {
      throw new UnauthorizedError("signed out");
    },
  });
  const offlineState = await untilOffline(withoutToken);
  assert.deepEqual(
    [offlineState.reason, offlineState.retryIn, offlineState.error.code],
    ["signed out", undefined, "unauthorized"],
  );
  await assert.rejects(withoutToken.conversation("#general").react(1, "x"), { code: "unauthorized" });

  const eve = startChat({ token: "wrong" });
  const refusedState = await untilOffline(eve);
  assert.deepEqual(
    [refusedState.code, refusedState.retryIn, refusedState.error.code],
    [4501, undefined, "unauthorized"],
  );

  let ttl = 2;
  const bob = startChat({ token: () => server.token("bob", { ttl: (ttl += 100) - 100 }) });
  await untilOnline(bob);
  const { code } = await untilOffline(bob);
  assert.equal(code, 4401);
  await untilOnline(bob);
});

test("a static token that has ended is refused for good by a real server, with its sentence", async (t) => {
  const server = await Server.start(t, PRODUCTION_SERVER_OPTIONS);
  const chat = connect(server.url, { token: server.token("alice", { ttl: -60 }) });
  t.after(() => chat.close());
  const { retryIn, reason, error } = await untilOffline(chat);
  assert.deepEqual([retryIn, error.code], [undefined, "unauthorized"]);
  assert.match(reason, /expired/);
});

test("no other user's messages after a token of another user", async (t) => {
  const server = await Server.start(t, PRODUCTION_SERVER_OPTIONS);
  const { WebSocket, cut } = connectionGroup();
  let user = "alice";
  // The token expires too soon to be kept.
  const chat = connect(server.url, { WebSocket, token: () => server.token(user, { ttl: 20 }) });
  t.after(() => chat.close());
  await untilOnline(chat);
  const errorReported = new Promise((resolve) =>
    chat.on("error", (error) => error.code === "unauthorized" && resolve()),
  );
  user = "bob";
  cut();
  await errorReported;
  assert.equal(chat.status.getSnapshot().state, "idle");
  assert.equal(chat.user.getSnapshot(), "alice");
});
