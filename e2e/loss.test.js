// Tests that no message is lost or shown twice: after reloads, a killed server, and long disconnects.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  UNREACHABLE_SERVER_MESSAGE,
  unexpectedConsoleMessages,
  launchBrowser,
  Person,
  Server,
  startCuttableProxy,
  openPagesOf,
} from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const sentLines = (person, from, to) => Array.from({ length: to - from + 1 }, (_, n) => `${person.name} ${from + n}`);

/** Reads the whole log from the beginning, by scrolling the page. */
async function scrollThroughWholeLog(person, first) {
  while (!(await person.messages(first).count())) {
    await person.at("log").evaluate((log) => {
      log.scrollTop = 0;
      log.dispatchEvent(new Event("scroll"));
    });
  }
  // The page draws a bounded window of rows and moves it on scrolling. Steps of half a view never skip unread rows, however
  // late the page draws.
  const seenRows = new Map();
  for (let atEnd = false; !atEnd;) {
    atEnd = await person.at("log").evaluate(async (log) => {
      const isAtBottom = log.scrollHeight - log.clientHeight - log.scrollTop <= 1;
      log.scrollTop += log.clientHeight / 2;
      await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
      // The button jumps to the latest message; at the end it is hidden.
      return isAtBottom && !document.querySelector("[data-testid=jump], [data-testid=new-pill]");
    });
    for (const [seq, text] of await person.log()) seenRows.set(seq, text);
  }
  return [...seenRows].sort(([a], [b]) => a - b);
}

/** Waits until the browser has stored all unacknowledged messages, which takes some milliseconds. */
const untilPendingMessagesAreStored = (person) =>
  person.page.waitForFunction(async () => {
    const requestSucceeds = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
    const db = await requestSucceeds(indexedDB.open("switchboard"));
    const kept = await requestSucceeds(db.transaction("outbox").objectStore("outbox").count());
    db.close();
    return kept >= document.querySelectorAll("[data-testid=message][data-state=pending]").length;
  });

test("after a reload while sending, each message arrives once", async (t) => {
  const server = await Server.start(t);
  const serverProxy = await startCuttableProxy(t, server);
  const alice = await Person.arrive(t, browser, serverProxy, "alice");
  const bob = await Person.arrive(t, browser, server, "bob");
  await alice.opens("#general");
  await bob.opens("#general");
  for (const text of sentLines(alice, 1, 20)) await alice.says(text);
  await untilPendingMessagesAreStored(alice);
  await alice.page.reload();
  await bob.sees("alice 20");
  // Cut the connection, so that no message arrives before the reload.
  await alice.is("online");
  await alice.at("composer").waitFor();
  serverProxy.cut();
  await alice.is("offline");
  for (const text of sentLines(alice, 21, 25)) await alice.says(text);
  await alice.page.locator("[data-testid=message][data-state=pending]").nth(4).waitFor();
  await untilPendingMessagesAreStored(alice);
  serverProxy.goOnline();
  await alice.page.reload();
  await bob.sees("alice 25");
  await alice.sees("alice 25");
  const texts = (await scrollThroughWholeLog(bob, "alice 1")).map(([, text]) => text).slice(3);
  assert.deepEqual(texts, sentLines(alice, 1, 25));
  assert.deepEqual(await scrollThroughWholeLog(alice, "alice 1"), await scrollThroughWholeLog(bob, "alice 1"));
  assert.deepEqual(unexpectedConsoleMessages([alice, bob], UNREACHABLE_SERVER_MESSAGE), []);
});

test("a server killed and restarted while two users send: no loss, no duplicates, one order", async (t) => {
  const [server, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.opens("#general");
  await bob.opens("#general");
  const typeLines = async (person) => {
    for (const text of sentLines(person, 1, 40)) await person.says(text);
  };
  const typing = Promise.all([typeLines(alice), typeLines(bob)]);
  await bob.sees("alice 5");
  await server.kill();
  await alice.is("offline");
  await bob.is("offline");
  await server.start();
  await typing;
  await alice.says("alice after all");
  await bob.says("bob after all");
  for (const person of [alice, bob]) {
    await person.sees("alice after all");
    await person.sees("bob after all");
  }
  const first = "Hi Bob! Every message here is on the disk before I see that it was sent.";
  const log = await scrollThroughWholeLog(alice, first);
  assert.deepEqual(await scrollThroughWholeLog(bob, first), log);
  assert.deepEqual(
    log.map(([seq]) => seq),
    log.map((_, n) => log[0][0] + n),
    "no number is missing",
  );
  for (const person of [alice, bob]) {
    const ownLines = log.map(([, text]) => text).filter((text) => text.startsWith(`${person.name} `));
    assert.deepEqual(ownLines, [...sentLines(person, 1, 40), `${person.name} after all`]);
  }
  await alice.page.reload();
  await alice.sees("bob after all");
  assert.deepEqual(await scrollThroughWholeLog(alice, first), log);
  assert.deepEqual(unexpectedConsoleMessages([alice, bob], UNREACHABLE_SERVER_MESSAGE), []);
});

test("after a disconnect of 300 messages, all arrive in order", async (t) => {
  const server = await Server.start(t);
  const serverProxy = await startCuttableProxy(t, server);
  const alice = await Person.arrive(t, browser, serverProxy, "alice");
  await alice.opens("#general");
  serverProxy.cut();
  await alice.is("offline");
  await alice.at("banner").waitFor();
  await alice.says("said while away");
  for (let n = 1; n <= 300; n++) await server.posts("send", { as: "bob", to: "#general", text: `bob ${n}` });
  serverProxy.goOnline();
  await alice.reconnects();
  await alice.at("banner").waitFor({ state: "detached" });
  await alice.at("jump").or(alice.at("new-pill")).or(alice.messages("said while away")).first().waitFor();
  const log = await scrollThroughWholeLog(
    alice,
    "Hi Bob! Every message here is on the disk before I see that it was sent.",
  );
  const expectedRows = (await server.history("alice", "#general")).map(({ seq, text }) => [seq, text]);
  assert.equal(expectedRows.length, 304);
  assert.deepEqual(log, expectedRows);
  assert.deepEqual(unexpectedConsoleMessages([alice], UNREACHABLE_SERVER_MESSAGE), []);
});

test("two tabs of one user: a message sent offline is shown once in both", async (t) => {
  const server = await Server.start(t);
  const serverProxy = await startCuttableProxy(t, server);
  const alice = await Person.arrive(t, browser, serverProxy, "alice");
  await alice.opens("#general");
  const secondTab = await alice.page.context().newPage();
  await secondTab.goto("/#user=alice&conversation=%23general");
  await secondTab.getByTestId("composer").waitFor();
  serverProxy.cut();
  await alice.is("offline");
  await alice.says("from the first tab");
  serverProxy.goOnline();
  await secondTab.reload();
  await alice.page.bringToFront();
  const storedMessageIn = (page) =>
    page.locator("[data-testid=message][data-seq]").filter({ hasText: "from the first tab" });
  await storedMessageIn(alice.page).waitFor();
  await storedMessageIn(secondTab).waitFor();
  const fullHistory = await server.history("alice", "#general");
  assert.equal(fullHistory.filter(({ text }) => text === "from the first tab").length, 1);
  for (const page of [alice.page, secondTab]) {
    assert.equal(await page.getByTestId("message").filter({ hasText: "from the first tab" }).count(), 1);
  }
});
