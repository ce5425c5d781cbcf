// The entry point for back ends, against the real server with a secret and a key.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ChatError, connect } from "@switchboard/client";
import { command, feed, mintToken, send } from "@switchboard/client/server";
import { Server, untilTexts, until } from "./support.js";

const SECRET = "a secret of the tests that is long enough";

async function startProductionServer(t, env = {}) {
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET, ...env } });
  const key = await server.createKey("shop", "--scope", "act,feed,moderate");
  return { server, key, access: { url: server.url, key, as: "shop" } };
}

test("a token that was minted lets its user in", async (t) => {
  const { server } = await startProductionServer(t);
  // The secret has a line break at its end, as if it was read from a file; the line break is ignored.
  const alice = connect(server.url, { token: () => mintToken(`${SECRET}\n`, { user: "alice" }) });
  t.after(() => alice.close());
  await until(alice.status, ({ state }) => state === "online");
  assert.equal(alice.user.getSnapshot(), "alice");
});

test("a token says when it ends, from whom it is and for whom", async (t) => {
  const { server } = await startProductionServer(t, {
    SWITCHBOARD_AUTH_ISSUER: "shop",
    SWITCHBOARD_AUTH_AUDIENCE: "chat",
  });
  const tokenOptions = {
    user: "Zoë-is-no-id",
    expiresIn: 60,
    issuer: "shop",
    audience: "chat",
    claims: { name: "Zoë 🎉" },
  };
  const [, payload] = (await mintToken(SECRET, tokenOptions)).split(".");
  const { iat, exp, ...claims } = JSON.parse(Buffer.from(payload, "base64url").toString());
  assert.deepEqual(claims, { name: "Zoë 🎉", iss: "shop", aud: "chat", sub: "Zoë-is-no-id" });
  assert.ok(exp - iat === 60 && Math.abs(iat - Date.now() / 1_000) < 60);
  const key = await mintToken(SECRET, { ...tokenOptions, user: "alice" });
  assert.deepEqual(await command({ url: server.url, key }, "conversations", {}), { conversations: [], more: false });
  const tokenForOtherAudience = await mintToken(SECRET, { user: "alice", issuer: "shop", audience: "mail" });
  await assert.rejects(command({ url: server.url, key: tokenForOtherAudience }, "conversations", {}), {
    code: "unauthorized",
  });
});

test("a token that no server would take is not made", async () => {
  await assert.rejects(mintToken("short", { user: "alice" }), /32 bytes/);
  await assert.rejects(mintToken(SECRET, { user: "" }), /needs a user/);
  await assert.rejects(mintToken(SECRET, { user: "alice", expiresIn: 3_600_000_000 }), /seconds/);
});

test("a back end sends in a user's name, once for each key", async (t) => {
  const { server, access } = await startProductionServer(t);
  const alice = connect(server.url, { token: server.token("alice") });
  t.after(() => alice.close());
  const room = alice.conversation("@shop");
  const order = { ...access, to: "@alice", text: "On its way.", data: { order: 17 }, messageKey: "order-17" };
  const { seq, conversation } = await send(order);
  assert.deepEqual([conversation, seq], ["@alice:shop", 1]);
  assert.deepEqual((({ seq, duplicate }) => ({ seq, duplicate }))(await send(order)), { seq: 1, duplicate: true });
  await send({ ...access, to: "@alice", text: "A reply.", replyTo: 1 });
  await untilTexts(room, ["On its way.", "A reply."]);
  const [first, second] = room.messages.getSnapshot();
  assert.deepEqual([first.from, first.key, first.data, second.replyTo], ["shop", "order-17", { order: 17 }, 1]);
  await assert.rejects(send({ ...order, text: "Another." }), { code: "key_conflict", retryable: false });
});

test("any command, with the server's errors", async (t) => {
  const { access } = await startProductionServer(t);
  const { conversation } = await command(access, "create", { room: "orders", title: "Orders", members: ["alice"] });
  assert.equal(conversation, "#orders");
  const { members } = await command(access, "members", { conversation });
  assert.deepEqual(
    members.map(({ user, role }) => [user, role]),
    [
      ["shop", "admin"],
      ["alice", "member"],
    ],
  );
  await assert.rejects(
    command({ ...access, as: "alice" }, "rename", { conversation, title: "Mine" }),
    (error) => error instanceof ChatError && error.code === "forbidden" && !error.retryable && !!error.message,
  );
  await assert.rejects(command(access, "rename", { conversation, title: "" }), { code: "bad_field", field: "title" });
  await assert.rejects(command({ ...access, key: "sbk_wrong" }, "conversations", {}), { code: "unauthorized" });
});

test("a user is logged out everywhere", async (t) => {
  const { server, key } = await startProductionServer(t);
  const token = await mintToken(SECRET, { user: "alice" });
  await command({ url: server.url, key }, "revoke", { user: "alice" });
  await assert.rejects(command({ url: server.url, key: token }, "conversations", {}), { code: "unauthorized" });
  assert.deepEqual(await command({ url: server.url, key }, "revoke", { user: "alice", replace: true }), {});
});

test("a back end checks its address and its key", async (t) => {
  const { server, access } = await startProductionServer(t);
  assert.deepEqual(await command(access, "ping", {}), {});
  await assert.rejects(command({ url: server.url, key: "sbk_wrong" }, "ping", {}), { code: "unauthorized" });
});

/** The calls of the server's OpenAPI document; `ofTheApplication` are those without `as`. */
async function documentedCalls(server) {
  const { paths } = await (await fetch(`${server.url}/v1/openapi.json`)).json();
  const calls = Object.entries(paths).filter(([, { post }]) => post);
  const names = (list) => list.map(([path]) => path.slice("/v1/".length));
  const ofTheApplication = calls.filter(([, { post }]) => !JSON.stringify(post.requestBody).includes('"as"'));
  return { all: names(calls), ofTheApplication: names(ofTheApplication) };
}

test("`command` knows each call of the server, and no other", async (t) => {
  const { server } = await startProductionServer(t);
  const { all, ofTheApplication } = await documentedCalls(server);
  const directory = await mkdtemp(join(tmpdir(), "switchboard-types-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const here = fileURLToPath(new URL("..", import.meta.url));
  const union = (names) => names.map((name) => JSON.stringify(name)).join(" | ");
  await writeFile(
    join(directory, "calls.ts"),
    `import type { ApplicationCalls, HttpCommand } from ${JSON.stringify(join(here, "dist/server.js"))};
     type Same<A, B> = [A, B] extends [B, A] ? true : { missing: Exclude<A, B>; unknown: Exclude<B, A> };
     export const all: Same<${union(all)}, HttpCommand["type"]> = true;
     export const ofTheApplication: Same<${union(ofTheApplication)}, keyof ApplicationCalls> = true;`,
  );
  const options = ["--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"];
  await promisify(execFile)("npx", ["tsc", ...options, join(directory, "calls.ts")], { cwd: here }).catch(
    ({ stdout }) => {
      throw new Error(stdout);
    },
  );
});

test("a call that concerns the application has no `as`", async (t) => {
  const { server, access } = await startProductionServer(t);
  const { all, ofTheApplication } = await documentedCalls(server);
  const withoutAs = [];
  for (const name of all) {
    const fetch = async (_, { body }) => {
      if (JSON.parse(body).as === undefined) withoutAs.push(name);
      return new Response('{"type":"ok"}');
    };
    await command({ ...access, fetch }, name, {});
  }
  assert.deepEqual(withoutAs, ofTheApplication);
});

test("import: the history of another system, once", async (t) => {
  const { server } = await startProductionServer(t);
  const admin = { url: server.url, key: await server.createKey("mover", "--scope", "admin"), as: "bob" };
  const lines = [
    { create: "#js-9", at: "2019-03-01T09:00:00Z", from: "shop", members: ["bob"] },
    { to: "#js-9", from: "bob", at: "2019-03-01T09:00:01Z", key: "m17", text: "Grüße" },
  ];
  assert.deepEqual(await command(admin, "import", { lines }), { stored: 2, duplicates: 0 });
  assert.deepEqual(await command(admin, "import", { lines }), { stored: 0, duplicates: 2 });
  const { messages } = await command(admin, "history", { conversation: "#js-9" });
  assert.deepEqual(
    messages.map(({ from, at, text }) => [from, at, text]),
    [["bob", "2019-03-01T09:00:01.000Z", "Grüße"]],
  );
});

test("profiles: of many users by the application, and one's own", async (t) => {
  const { server } = await startProductionServer(t, { SWITCHBOARD_PROFILES_SELF: "true" });
  const admin = { url: server.url, key: await server.createKey("crm", "--scope", "admin"), as: "shop" };
  await command(admin, "create", { room: "team", members: ["usr_1", "eve"] });
  const profiles = [{ user: "usr_1", name: "Ana María López", data: { tier: "gold" } }];
  assert.deepEqual(await command(admin, "profiles", { profiles }), {});
  const eve = { url: server.url, key: await mintToken(SECRET, { user: "eve" }) };
  const { version } = await command(eve, "profile", { name: "Eve", data: { team: "red" } });
  assert.ok((await command(eve, "profile", { data: null })).version > version);
  const { users } = await command(admin, "users", { users: ["eve", "usr_1"] });
  assert.deepEqual(
    users.map(({ user, name, data }) => [user, name, data]),
    [
      ["eve", "Eve", undefined],
      ["usr_1", "Ana María López", { tier: "gold" }],
    ],
  );
  const found = await command(admin, "find_users", { query: "lop" });
  assert.deepEqual([found.users.map(({ user }) => user), found.more], [["usr_1"], false]);
});

test("a webhook from its first entry to its end", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-webhooks-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await writeFile(join(directory, "secret"), "secret".repeat(8));
  const { server, access } = await startProductionServer(t, {
    SWITCHBOARD_WEBHOOKS_SECRET_FILE: join(directory, "secret"),
    SWITCHBOARD_WEBHOOKS_PRIVATE: "true",
  });
  const admin = { url: server.url, key: await server.createKey("admin", "--scope", "admin") };
  const endpoint = createServer(async (request, response) => {
    const body = JSON.parse(Buffer.concat(await request.toArray()));
    response.writeHead(204).end();
    if (body.type === "message") endpoint.emit("entry", body.data.event.text);
  });
  await new Promise((listening) => endpoint.listen(0, "127.0.0.1", listening));
  t.after(() => endpoint.close());
  const url = `http://127.0.0.1:${endpoint.address().port}/`;
  const { secret } = await command(admin, "add_webhook", { name: "shop", url, types: ["message"] });
  assert.match(secret, /^whsec_/);
  assert.equal((await command(admin, "test_webhook", { name: "shop" })).answer.status, 204);
  const entry = once(endpoint, "entry");
  await send({ ...access, to: "@alice", text: "hello" });
  assert.deepEqual(await entry, ["hello"]);
  await command(admin, "pause_webhook", { name: "shop" });
  assert.equal((await command(admin, "list_webhooks", {})).webhooks[0].paused, "by an operator");
  await command(admin, "resume_webhook", { name: "shop" });
  assert.notEqual((await command(admin, "rotate_webhook", { name: "shop", overlap: 60_000 })).secret, secret);
  await command(admin, "replay_webhook", { name: "shop", parked: true });
  await command(admin, "remove_webhook", { name: "shop" });
  assert.deepEqual(await command(admin, "list_webhooks", {}), { webhooks: [] });
});

test("the feed has each message once, however often its reader starts again", async (t) => {
  const { access } = await startProductionServer(t);
  for (let n = 1; n <= 5; n++) await send({ ...access, to: "@alice", text: `message ${n}` });
  const { as: _, ...reader } = access;
  const texts = [];
  for (let after = "0"; texts.length < 5;) {
    for await (const entry of feed({ ...reader, after, types: ["message"], limit: 2, follow: false })) {
      texts.push(entry.event.text);
      after = entry.id;
      if (texts.length % 3 === 0) break;
    }
  }
  assert.deepEqual(
    texts,
    [1, 2, 3, 4, 5].map((n) => `message ${n}`),
  );
  await assert.rejects(feed({ ...reader, after: "00000000-1" }).next(), { code: "bad_cursor" });
});

test("a reader of the feed waits for what is written, over a failure, until it is aborted", async (t) => {
  const { server, access } = await startProductionServer(t);
  const { url } = await startFailingProxy(t, server, [(response) => response.writeHead(502).end("Bad gateway")]);
  const ending = new AbortController();
  const entries = feed({ url, key: access.key, after: "0", types: ["message"], signal: ending.signal });
  const first = entries.next();
  await send({ ...access, to: "@alice", text: "hello" });
  const { value } = await first;
  assert.deepEqual([value.via, value.event.text], ["shop", "hello"]);
  const next = entries.next();
  ending.abort();
  await assert.rejects(next, { code: "aborted" });
});

/** A proxy that answers the first requests with `answers`, one each, and forwards later requests to the server. */
async function startFailingProxy(t, server, answers) {
  const idempotencyKeys = [];
  const failingProxy = createServer(async (request, response) => {
    const body = await request.toArray().then((parts) => Buffer.concat(parts).toString());
    idempotencyKeys.push(JSON.parse(body).key);
    const answer = answers.shift();
    if (answer) return answer(response);
    const { method, headers } = request;
    const proxiedResponse = await fetch(server.url + request.url, {
      method,
      body,
      headers: { ...headers, host: undefined },
    });
    response.writeHead(proxiedResponse.status, { "content-type": proxiedResponse.headers.get("content-type") });
    response.end(await proxiedResponse.text());
  });
  await new Promise((listening) => failingProxy.listen(0, "127.0.0.1", listening));
  t.after(() => failingProxy.close());
  return { url: `http://127.0.0.1:${failingProxy.address().port}`, keys: idempotencyKeys };
}

test("what may succeed later is sent again, with the same key", async (t) => {
  const { server, access } = await startProductionServer(t);
  const { url, keys } = await startFailingProxy(t, server, [
    (response) => response.writeHead(502, { "content-type": "text/html" }).end("<h1>Bad gateway</h1>"),
    (response) => response.destroy(),
    (response) =>
      response
        .writeHead(429, { "content-type": "application/problem+json" })
        .end('{"code":"rate_limited","detail":"too fast","retryable":true,"retry_after":1}'),
  ]);
  assert.equal((await send({ ...access, url, to: "@alice", text: "once" })).seq, 1);
  assert.equal(keys.length, 4);
  assert.equal(new Set(keys).size, 1);
  assert.equal((await server.asUser("alice", "history", { conversation: "@shop" })).messages.length, 1);
});

test("no answer: `timeout`, `aborted`, `offline`, and a page of another server", async (t) => {
  const { server, access } = await startProductionServer(t);
  const sendThroughProxy = async (answer, more = {}) => {
    const { url } = await startFailingProxy(t, server, [answer]);
    return command({ ...access, url, ...more }, "conversations", {});
  };
  await assert.rejects(
    sendThroughProxy(() => {}, { timeout: 50 }),
    { name: "ChatError", code: "timeout", retryable: true },
  );
  const abortController = new AbortController();
  await assert.rejects(
    sendThroughProxy(() => abortController.abort(), { signal: abortController.signal }),
    { code: "aborted", retryable: false },
  );
  await assert.rejects(
    sendThroughProxy((response) => response.writeHead(404).end("nothing here")),
    (error) => error.code === "internal" && /404.*nothing here/.test(error.message),
  );
  await assert.rejects(command({ ...access, url: "http://127.0.0.1:1" }, "conversations", {}), {
    code: "offline",
    retryable: true,
  });
  await assert.rejects(command({ ...access, url: "chat.example" }, "conversations", {}), { code: "invalid" });
});

test("one call sends to many users, and lists say who there is", async (t) => {
  const { server, access } = await startProductionServer(t);
  const people = { url: server.url, key: await server.createKey("people", "--scope", "people") };
  const { results } = await command(access, "send_many", { users: ["alice", "bob"], key: "sale-1", text: "Sale!" });
  assert.deepEqual(
    results.map(({ user, conversation, seq }) => [user, conversation, seq]),
    [
      ["alice", "@alice:shop", 1],
      ["bob", "@bob:shop", 1],
    ],
  );
  const { users } = await command(people, "list_users", { match: "*b*" });
  assert.deepEqual(
    users.map(({ user }) => user),
    ["bob"],
  );
  assert.deepEqual((await command(people, "list_rooms", {})).rooms, []);
  const { users: counts } = await command(people, "unread", { users: ["bob"] });
  assert.equal(counts[0].messages, 1);
});

test("a renamed user is in the list of the others under the new id, and no longer under the old one", async (t) => {
  const { server } = await startProductionServer(t);
  const admin = { url: server.url, key: await server.createKey("admin", "--scope", "admin") };
  await command({ ...admin, as: "bob" }, "send", { to: "@alice", text: "hi" });
  const alice = connect(server.url, { token: () => mintToken(SECRET, { user: "alice" }) });
  t.after(() => alice.close());
  const ids = (list) => list.map(({ id }) => id);
  await until(alice.conversations, (list) => ids(list).includes("@alice:bob"));
  await command(admin, "rename_user", { user: "bob", to: "robert" });
  const list = await until(alice.conversations, (list) => ids(list).includes("@alice:robert"));
  assert.deepEqual(ids(list), ["@alice:robert"]);
});

test("a deleted room leaves the list of its members, also where it was not open or they were away", async (t) => {
  const { server, access } = await startProductionServer(t);
  const admin = { url: server.url, key: await server.createKey("admin", "--scope", "admin") };
  for (const room of ["open", "listed", "away"]) {
    await command(access, "create", { room, members: ["alice"] });
    for (const text of ["one", "two", "three"]) await command(access, "send", { to: `#${room}`, text });
  }
  const alice = connect(server.url, { token: () => mintToken(SECRET, { user: "alice" }) });
  t.after(() => alice.close());
  const room = alice.conversation("#open");
  t.after(room.messages.subscribe(() => {}));
  await until(room.state, (state) => state === "ready");
  await until(alice.conversations, (list) => list.length === 3);
  const end = await command(admin, "delete_room", { conversation: "#open", as: "shop" });
  assert.deepEqual([end.conversation, end.seq], ["#open", 5]);
  await until(room.state, (state) => state === "ended");
  await command(admin, "delete_room", { conversation: "#listed" });
  await until(alice.conversations, (list) => list.length === 1);
  assert.equal((await command(admin, "delete_room", { conversation: "#open" })).duplicate, true);
  await assert.rejects(command(access, "create", { room: "open" }), { code: "already_exists" });
});
