// Tests of what a user may do: the permissions in `welcome`, in the answer to `token`, and in refusals.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { connect } from "@switchboard/client";
import { fakeServer } from "@switchboard/client/testing";
import { FakeServer } from "./fake-socket.js";
import { Server, until, untilOnline } from "./support.js";

const SECRET = "0123456789abcdef0123456789abcdef";

/** A token with the claim `switchboard`, which replaces the server's settings. */
function tokenWith(claim, user = "alice") {
  const now = Math.floor(Date.now() / 1_000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = { sub: user, iat: now, exp: now + 3_600, ...(claim && { switchboard: claim }) };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(body)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

const SHOP = { create_rooms: false, public_rooms: false, invite: "admins", contact: ["agent_*"], directory: "off" };

test("the app sees what the user may do, and the permission that a refused command lacks", async (t) => {
  const env = { SWITCHBOARD_PERMISSIONS_CREATE_ROOMS: "false", SWITCHBOARD_PERMISSIONS_CONTACT: "agent_*" };
  const server = await Server.start(t, { env });
  const chat = server.connects(t, "alice");
  assert.equal(chat.permissions.getSnapshot(), undefined);
  const permissions = await until(chat.permissions, Boolean);
  assert.deepEqual(permissions, {
    createRooms: false,
    publicRooms: true,
    invite: "members",
    contact: ["agent_*"],
    others: "refuse",
    directory: "shared",
  });
  await assert.rejects(chat.create({ title: "Ours" }), { code: "forbidden", permission: "create_rooms" });
  await assert.rejects(chat.conversation("@mallory").send("hi").acked, { code: "forbidden", permission: "contact" });
  await chat.conversation("@agent_7").send("hi").acked;
});

test("a reconnect with the same permissions keeps their object, and a newer token replaces them at once", async (t) => {
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } });
  const network = server.connectionGroup();
  const { WebSocket } = network;
  const chat = server.connects(t, undefined, { token: async () => tokenWith(SHOP), WebSocket, outbox: null });
  const seen = [];
  chat.permissions.subscribe((value) => seen.push(value));
  const first = await until(chat.permissions, Boolean);
  assert.deepEqual([first.createRooms, first.invite, first.contact], [false, "admins", ["agent_*"]]);
  network.cut();
  await until(chat.status, ({ state }) => state !== "online");
  await untilOnline(chat);
  assert.equal(chat.permissions.getSnapshot(), first);
  await chat.command("token", { token: tokenWith({ ...SHOP, create_rooms: true }) });
  assert.equal(chat.permissions.getSnapshot().createRooms, true);
  await chat.create({ title: "Ours" });
  assert.deepEqual(
    seen.map((value) => value?.createRooms),
    [undefined, false, true],
  );
});

test("a message that was refused keeps the missing permission over a reload", async (t) => {
  const stored = new Map();
  const outbox = {
    load: async () => [...stored.values()].map((entry) => structuredClone(entry)),
    put: async (_, entry) => void stored.set(entry.key, structuredClone(entry)),
    delete: async (_, key) => void stored.delete(key),
  };
  const server = await Server.start(t, { env: { SWITCHBOARD_PERMISSIONS_CONTACT: "agent_*" } });
  const before = server.connects(t, "alice", { outbox });
  await assert.rejects(before.conversation("@mallory").send("hi").acked, { permission: "contact" });
  await until(before.outbox.entries, ([entry]) => entry?.state === "failed");
  before.close();
  const after = server.connects(t, "alice", { outbox });
  const [failed] = await until(after.conversation("@mallory").messages, ([message]) => message?.state === "failed");
  assert.deepEqual([failed.error.code, failed.error.permission], ["forbidden", "contact"]);
});

test("the fake server says and enforces permissions", async (t) => {
  const server = fakeServer({ permissions: { create_rooms: false, public_rooms: false } });
  const chat = server.connect("alice");
  t.after(() => chat.close());
  assert.equal((await until(chat.permissions, Boolean)).createRooms, false);
  await assert.rejects(chat.create(), { code: "forbidden", permission: "create_rooms" });
});

test("permissions stay unknown with a server that does not say them", async (t) => {
  const { WebSocket } = new FakeServer();
  const chat = connect("ws://switchboard.test", { user: "alice", WebSocket, outbox: null });
  t.after(() => chat.close());
  chat.start();
  await untilOnline(chat);
  assert.equal(chat.permissions.getSnapshot(), undefined);
});
