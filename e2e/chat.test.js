// The page in a real browser on the real server.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Person, Server, launch } from "./support.js";

let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

async function world(t, ...names) {
  const server = await Server.start(t);
  const people = [];
  for (const name of names) people.push(await Person.arrive(t, browser, server, name));
  return [server, ...people];
}

/** Nothing failed in the page; `expected` are complaints that belong to the test. */
function contented(people, expected) {
  for (const { name, complaints } of people) {
    assert.deepEqual(complaints.filter((text) => !expected?.test(text)), [], `in the console of ${name}`);
  }
}

test("a room: what one says the other sees, both ways", async (t) => {
  const [, alice, bob] = await world(t, "alice", "bob");
  await alice.opens("#general");
  await bob.opens("#general");
  await alice.says("hello from alice");
  await bob.sees("hello from alice");
  await bob.says("hello from bob");
  await alice.sees("hello from bob");
  await bob.sees("hello from bob");
  assert.deepEqual(await alice.log(), await bob.log());
  const csp = (await alice.response.allHeaders())["content-security-policy"];
  assert.match(csp, /default-src 'none'/);
  assert.doesNotMatch(csp, /unsafe|\*/);
  contented([alice, bob]);
});

test("a direct conversation: it appears with its count, and shows who has read", async (t) => {
  const [, alice, bob] = await world(t, "alice", "bob");
  await alice.opens("@bob");
  await alice.says("psst");
  await alice.sees("psst");
  const row = bob.conversation("@alice:bob");
  await row.filter({ hasText: /alice1 unread.*psst/s }).waitFor();
  assert.equal(await alice.messages("psst").getByText("read", { exact: true }).count(), 0);
  await row.click();
  await bob.sees("psst");
  await row.filter({ hasNotText: "unread" }).waitFor();
  await alice.messages("psst").getByText("read", { exact: true }).waitFor();
  await bob.says("yes?");
  await alice.sees("yes?");
  await bob.sees("yes?");
  assert.deepEqual((await alice.log()).map(([, text]) => text), ["psst", "yes?"]);
  assert.deepEqual(await alice.log(), await bob.log());
  contented([alice, bob]);
});

test("presence: online while there, last seen after", async (t) => {
  const [, alice, bob] = await world(t, "alice", "bob");
  await alice.opens("@bob");
  await alice.says("there?");
  await alice.reads("presence", "online");
  await bob.page.close();
  await alice.reads("presence", /^last seen /);
  contented([alice, bob]);
});

test("typing shows, and ends with the message or by itself", async (t) => {
  const [, alice, bob] = await world(t, "alice", "bob");
  await alice.opens("@bob");
  await alice.says("go on");
  await bob.conversation("@alice:bob").click();
  await bob.sees("go on");
  await bob.at("composer").pressSequentially("well");
  await alice.reads("typing", "bob is typing…");
  await bob.at("composer").press("Enter");
  await alice.sees("well");
  await alice.reads("typing", "");
  await alice.at("composer").pressSequentially("hm");
  await bob.reads("typing", "alice is typing…");
  await bob.reads("typing", "");
  contented([alice, bob]);
});

test("history is there after a reload, older pages on demand", async (t) => {
  const [, alice] = await world(t, "alice");
  const texts = Array.from({ length: 60 }, (_, i) => `line ${i + 1}`);
  await alice.saysRaw(...texts.map((text, i) => ({ type: "send", to: "@bob", key: `k${i}`, text })));
  await alice.conversation("@alice:bob").click();
  await alice.sees("line 60");
  await alice.page.reload();
  await alice.isConnected();
  await alice.sees("line 60");
  await alice.messages("line 1").waitFor({ state: "detached" });
  await alice.page.getByRole("button", { name: "Load older messages" }).click();
  await alice.sees("line 1");
  assert.deepEqual((await alice.log()).map(([, text]) => text), texts);
  contented([alice]);
});

test("edits, deletions and reactions of another program are folded in", async (t) => {
  const [, alice, bob] = await world(t, "alice", "bob");
  await alice.opens("@bob");
  await alice.says("frist");
  await alice.says("regretted");
  await alice.sees("regretted");
  await bob.conversation("@alice:bob").click();
  await bob.sees("regretted");
  const conversation = "@alice:bob";
  await alice.saysRaw(
    { type: "edit", conversation, target: 1, text: "first" },
    { type: "delete", conversation, target: 2 },
  );
  await bob.saysRaw(
    { type: "react", conversation, target: 1, emoji: "👍" },
    { type: "react", conversation, target: 1, emoji: "__proto__" },
  );
  const shown = async () => {
    for (const person of [alice, bob]) {
      await person.messages("first").filter({ hasText: "edited" }).filter({ hasText: "👍" }).filter({ hasText: "__proto__" }).waitFor();
      assert.deepEqual(await person.log(), [[1, "first"], [2, "message deleted"]]);
    }
  };
  await shown();
  await alice.page.reload();
  await bob.page.reload();
  await shown();
  contented([alice, bob]);
});

test("a server killed and started again while people write: nothing lost, nothing doubled", async (t) => {
  const [server, alice, bob] = await world(t, "alice", "bob");
  await alice.opens("#general");
  await bob.opens("#general");
  const lines = (person) => Array.from({ length: 40 }, (_, i) => `${person.name} ${i + 1}`);
  const writes = async (person) => { for (const line of lines(person)) await person.says(line); };
  const writing = Promise.all([writes(alice), writes(bob)]);
  await bob.sees("alice 5");
  await server.kill();
  await alice.isOffline();
  await bob.isOffline();
  await server.start();
  await writing;
  await alice.isConnected();
  await bob.isConnected();
  await alice.says("alice after all");
  await bob.says("bob after all");
  const whole = async () => {
    for (const person of [alice, bob]) {
      await person.sees("alice after all");
      await person.sees("bob after all");
    }
    const log = await alice.log();
    assert.deepEqual(await bob.log(), log);
    for (const person of [alice, bob]) {
      const own = log.map(([, text]) => text).filter((text) => text.startsWith(person.name));
      assert.deepEqual(own, [...lines(person), `${person.name} after all`]);
    }
    return log;
  };
  const log = await whole();
  for (const person of [alice, bob]) {
    await person.page.reload();
    await person.sees("bob after all");
    await person.page.getByRole("button", { name: "Load older messages" }).click();
    await person.sees("alice 1");
  }
  assert.deepEqual(await whole(), log);
  // A browser reports each attempt to reach a server that is away.
  contented([alice, bob], /WebSocket connection to .* failed/);
});

test("hostile text is text", async (t) => {
  const [, alice, bob] = await world(t, "alice", "bob");
  // The one makes the room, the other joins it.
  await alice.opens("#wall");
  await bob.opens("#wall");
  const texts = [
    `<img src=x onerror="document.title='owned'">`,
    "</div><script>document.title='owned'</script>",
    "\u202Eright to left",
    "javascript:alert(1)",
  ];
  for (const text of texts) await alice.says(text);
  for (const person of [alice, bob]) {
    await person.sees(texts.at(-1));
    assert.deepEqual((await person.log()).map(([, text]) => text), texts);
    assert.equal(await person.page.locator("#app img, #app script, #app a").count(), 0);
    assert.doesNotMatch(await person.page.title(), /owned/);
  }
  contented([alice, bob]);
});

test("a token leaves the address bar; a wrong one stops with the reason", async (t) => {
  const server = await Server.start(t);
  const stranger = await Person.open(t, browser, server, "stranger", "/#token=not-a-token");
  await stranger.isOffline();
  await stranger.page.getByRole("button", { name: "Try again" }).waitFor();
  await stranger.reads("status", /unauthorized|token/i);
  assert.equal(stranger.page.url(), `${server.url}/`);
  contented([stranger]);
});

test("without a name the page asks for one", async (t) => {
  const server = await Server.start(t);
  const alice = await Person.open(t, browser, server, "alice", "/");
  await alice.page.getByLabel("Your name").fill("alice");
  await alice.page.getByLabel("Your name").press("Enter");
  await alice.isConnected();
  assert.equal(alice.page.url(), `${server.url}/#user=alice`);
  contented([alice]);
});
