// Tests of what the page stores in the browser, restores after a reload, and removes.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { complaints, launch, AWAY, Person, Server, wire } from "./support.js";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

const SECRET = "a secret of the tests that is long enough";
/** Matches what a browser logs for a response other than 2xx, and for a socket that closes while it opens. */
const ENDED = /WebSocket connection|net::ERR_|WebSocket is (already )?clos/;

/** The number of unacknowledged messages in the browser's storage. */
const keptMessages = (person) =>
  person.page.evaluate(async () => {
    const finished = (request) =>
      new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    const db = await finished(indexedDB.open("switchboard"));
    const kept = db.objectStoreNames.contains("outbox")
      ? await finished(db.transaction("outbox").objectStore("outbox").count())
      : 0;
    db.close();
    return kept;
  });

/** Waits until the browser has stored this number of unacknowledged messages. */
async function keeps(person, wanted) {
  while ((await keptMessages(person)) !== wanted) await person.page.evaluate(() => new Promise(requestAnimationFrame));
}

/** The names of the entries in the browser's storages: drafts and tokens. */
const names = (person) =>
  person.page.evaluate(() =>
    [localStorage, sessionStorage]
      .flatMap((storage) => Object.keys(storage))
      .filter((name) => /draft|token|user/.test(name)),
  );

test("a refused message stays failed after a reload, and signing out removes it", async (t) => {
  const server = await Server.start(t);
  const line = await wire(t, server);
  await server.posts("create", { as: "bob", room: "team", members: ["alice"] });
  const alice = await Person.arrive(t, browser, line, "alice");
  await alice.opens("#team");
  line.cut();
  await alice.is("offline");
  await alice.says("written without a connection");
  await keeps(alice, 1);
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "reader" });
  line.goOnline();
  await alice.reconnects();
  const failed = alice.page.locator("[data-testid=message][data-state=failed]");
  await failed.waitFor();
  await alice.page.reload();
  await alice.is("online");
  await failed.waitFor();
  // Even after the role is granted, the message is sent only on the author's retry.
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "member" });
  await alice.at("composer").waitFor();
  await alice.page.reload();
  await alice.is("online");
  await failed.waitFor();
  const { messages } = await server.posts("history", { as: "bob", conversation: "#team" });
  assert.deepEqual(messages, []);
  assert.equal(await keptMessages(alice), 1);
  await alice.at("composer").fill("a draft");
  await alice.at("settings").click();
  await alice.at("sign-out").click();
  await alice.at("signin-name").waitFor();
  assert.equal(await keptMessages(alice), 0);
  assert.deepEqual(await names(alice), []);
  assert.deepEqual(complaints([alice], AWAY), []);
});

test("the text of a refused edit returns to the composer", async (t) => {
  const server = await Server.start(t);
  const line = await wire(t, server);
  await server.posts("create", { as: "bob", room: "team", members: ["alice"] });
  const alice = await Person.arrive(t, browser, line, "alice");
  await alice.opens("#team");
  await alice.says("as it was");
  await alice.sees("as it was");
  line.cut();
  await alice.is("offline");
  await alice.chooses("as it was", "Edit");
  await alice.says("as it should be");
  // The edit is shown at once, and undone when the server refuses it.
  await alice.sees("as it should be");
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "reader" });
  line.goOnline();
  await alice.reconnects();
  await alice.sees("as it was");
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "member" });
  await alice.page.waitForFunction(() => document.querySelector("[data-testid=composer]")?.value === "as it should be");
  assert.deepEqual(complaints([alice], AWAY), []);
});

test("after a log-out everywhere the page shows and stores nothing of the user", async (t) => {
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } });
  const key = (await server.cli("key", "create", "shop", "--scope", "act,moderate")).stdout.trim().split("\n").at(-1);
  const alice = await Person.open(t, browser, server, "alice", `/#token=${server.token("alice")}`);
  await alice.is("online");
  await alice.writesTo("bob");
  await alice.says("a secret between us");
  await alice.sees("a secret between us");
  await alice.at("composer").fill("a draft");
  await server.posts("revoke", { user: "alice" }, { authorization: `Bearer ${key}` });
  await alice.at("signin-name").waitFor({ timeout: 5_000 });
  await alice.page.getByText("logged out").waitFor();
  assert.equal(await alice.messages().count(), 0);
  assert.deepEqual(await names(alice), []);
  assert.equal(await keptMessages(alice), 0);
  assert.deepEqual(complaints([alice], ENDED), []);
});

test("a page that is far behind loads the latest page, not everything that it missed", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_REPLAY: "50" } });
  const line = await wire(t, server);
  const alice = await Person.arrive(t, browser, line, "alice");
  await alice.opens("#general");
  const asked = {};
  alice.page.on("websocket", (socket) =>
    socket.on("framesent", ({ payload }) => {
      const { type } = JSON.parse(payload);
      asked[type] = (asked[type] ?? 0) + 1;
    }),
  );
  line.cut();
  await alice.is("offline");
  for (let n = 1; n <= 1_000; n++) await server.posts("send", { as: "bob", to: "#general", text: `missed ${n}` });
  line.goOnline();
  await alice.reconnects();
  await alice.sees("missed 1000");
  await server.posts("send", { as: "bob", to: "#general", text: "live again" });
  await alice.sees("live again");
  assert.equal(asked.sync ?? 0, 0);
  assert.ok((asked.history ?? 0) <= 2, JSON.stringify(asked));
  assert.deepEqual(complaints([alice], AWAY), []);
});
