// Tests of what the page stores in the browser, restores after a reload, and removes.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  unexpectedConsoleMessages,
  launchBrowser,
  UNREACHABLE_SERVER_MESSAGE,
  Person,
  Server,
  startCuttableProxy,
} from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const SECRET = "a secret of the tests that is long enough";
/** Matches what a browser logs for a response other than 2xx, and for a socket that closes while it opens. */
const CONNECTION_ENDED_MESSAGE = /WebSocket connection|net::ERR_|WebSocket is (already )?clos/;

/** The number of unacknowledged messages in the browser's storage. */
const countKeptMessages = (person) =>
  person.page.evaluate(async () => {
    const requestSucceeds = (request) =>
      new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    const db = await requestSucceeds(indexedDB.open("switchboard"));
    const kept = db.objectStoreNames.contains("outbox")
      ? await requestSucceeds(db.transaction("outbox").objectStore("outbox").count())
      : 0;
    db.close();
    return kept;
  });

/** Waits until the browser has stored this number of unacknowledged messages. */
async function untilKeptMessagesAre(person, wanted) {
  while ((await countKeptMessages(person)) !== wanted)
    await person.page.evaluate(() => new Promise(requestAnimationFrame));
}

/** The names of the entries in the browser's storages: drafts and tokens. */
const databaseNames = (person) =>
  person.page.evaluate(() =>
    [localStorage, sessionStorage]
      .flatMap((storage) => Object.keys(storage))
      .filter((name) => /draft|token|user/.test(name)),
  );

test("a refused message stays failed after a reload, and signing out removes it", async (t) => {
  const server = await Server.start(t);
  const serverProxy = await startCuttableProxy(t, server);
  await server.posts("create", { as: "bob", room: "team", members: ["alice"] });
  const alice = await Person.arrive(t, browser, serverProxy, "alice");
  await alice.opens("#team");
  serverProxy.cut();
  await alice.is("offline");
  await alice.says("written without a connection");
  await untilKeptMessagesAre(alice, 1);
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "reader" });
  serverProxy.goOnline();
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
  assert.equal(await countKeptMessages(alice), 1);
  await alice.at("composer").fill("a draft");
  await alice.at("settings").click();
  await alice.at("sign-out").click();
  await alice.at("signin-name").waitFor();
  assert.equal(await countKeptMessages(alice), 0);
  assert.deepEqual(await databaseNames(alice), []);
  assert.deepEqual(unexpectedConsoleMessages([alice], UNREACHABLE_SERVER_MESSAGE), []);
});

test("the text of a refused edit returns to the composer", async (t) => {
  const server = await Server.start(t);
  const serverProxy = await startCuttableProxy(t, server);
  await server.posts("create", { as: "bob", room: "team", members: ["alice"] });
  const alice = await Person.arrive(t, browser, serverProxy, "alice");
  await alice.opens("#team");
  await alice.says("as it was");
  await alice.sees("as it was");
  serverProxy.cut();
  await alice.is("offline");
  await alice.chooses("as it was", "Edit");
  await alice.says("as it should be");
  // The edit is shown at once, and undone when the server refuses it.
  await alice.sees("as it should be");
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "reader" });
  serverProxy.goOnline();
  await alice.reconnects();
  await alice.sees("as it was");
  await server.posts("role", { as: "bob", conversation: "#team", user: "alice", role: "member" });
  await alice.page.waitForFunction(() => document.querySelector("[data-testid=composer]")?.value === "as it should be");
  assert.deepEqual(unexpectedConsoleMessages([alice], UNREACHABLE_SERVER_MESSAGE), []);
});

test("after a log-out everywhere the page shows and stores nothing of the user", async (t) => {
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } });
  const key = await server.createKey("shop", "--scope", "act,moderate");
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
  assert.deepEqual(await databaseNames(alice), []);
  assert.equal(await countKeptMessages(alice), 0);
  assert.deepEqual(unexpectedConsoleMessages([alice], CONNECTION_ENDED_MESSAGE), []);
});

test("a page that is far behind loads the latest page, not everything that it missed", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_LIMITS_REPLAY: "50" } });
  const serverProxy = await startCuttableProxy(t, server);
  const alice = await Person.arrive(t, browser, serverProxy, "alice");
  await alice.opens("#general");
  const requestCounts = {};
  alice.page.on("websocket", (socket) =>
    socket.on("framesent", ({ payload }) => {
      const { type } = JSON.parse(payload);
      requestCounts[type] = (requestCounts[type] ?? 0) + 1;
    }),
  );
  serverProxy.cut();
  await alice.is("offline");
  for (let n = 1; n <= 1_000; n++) await server.posts("send", { as: "bob", to: "#general", text: `missed ${n}` });
  serverProxy.goOnline();
  await alice.reconnects();
  await alice.sees("missed 1000");
  await server.posts("send", { as: "bob", to: "#general", text: "live again" });
  await alice.sees("live again");
  assert.equal(requestCounts.sync ?? 0, 0);
  assert.ok((requestCounts.history ?? 0) <= 2, JSON.stringify(requestCounts));
  assert.deepEqual(unexpectedConsoleMessages([alice], UNREACHABLE_SERVER_MESSAGE), []);
});
