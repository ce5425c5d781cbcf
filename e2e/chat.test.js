// Tests of the page in a real browser: two users chat on the real server.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { unexpectedConsoleMessages, launchBrowser, Person, Server, openPagesOf } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

test("a room: each user sees the other's messages", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.opens("#general");
  await bob.opens("#general");
  await alice.says("hello from alice");
  await bob.sees("hello from alice");
  await bob.says("hello from bob");
  await alice.sees("hello from bob");
  await bob.sees("hello from bob");
  assert.deepEqual(await alice.log(), await bob.log());
  const policy = (await alice.response.allHeaders())["content-security-policy"];
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*/);
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("a direct conversation appears with its unread count, and shows who has read", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.writesTo("bob");
  await alice.says("psst");
  await alice.sees("psst");
  const conversationRow = bob.conversation("@alice:bob");
  await conversationRow.getByTestId("unread").filter({ hasText: "1" }).waitFor();
  await conversationRow.filter({ hasText: "psst" }).waitFor();
  // #general has three messages of the demonstration data.
  await bob.page.waitForFunction(() => /^\(3\) /.test(document.title));
  await alice.at("receipt").filter({ hasText: "sent" }).waitFor();
  await conversationRow.click();
  await bob.sees("psst");
  await conversationRow.getByTestId("unread").waitFor({ state: "detached" });
  // Who has read is shown once both have written.
  await bob.says("yes?");
  await alice.sees("yes?");
  await alice.says("look");
  await bob.sees("look");
  await alice.at("receipt").filter({ hasText: "read" }).waitFor();
  assert.deepEqual(await alice.log(), await bob.log());
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("edit, delete, react and reply, with the mouse and with arrow-up", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.opens("#general");
  await bob.opens("#general");
  await alice.says("frist");
  await bob.sees("frist");
  await alice.at("composer").press("ArrowUp");
  assert.equal(await alice.at("composer").inputValue(), "frist");
  await alice.at("composer").fill("first");
  await alice.at("composer").press("Enter");
  await bob.sees("first");
  await bob.messages("first").getByTestId("edited").waitFor();
  await bob.chooses("first", "👍");
  const thumbsUpOf = (person) => person.messages("first").locator("[data-testid=reaction][data-emoji='👍']");
  await thumbsUpOf(alice).filter({ hasText: "1" }).waitFor();
  await thumbsUpOf(alice).click();
  await thumbsUpOf(bob).filter({ hasText: "2" }).waitFor();
  await thumbsUpOf(bob).click();
  await thumbsUpOf(alice).filter({ hasText: "1" }).waitFor();
  await bob.chooses("first", "Reply");
  await bob.says("an answer");
  await alice.messages("an answer").getByTestId("reply-quote").filter({ hasText: "first" }).waitFor();
  await alice.chooses("first", "Delete");
  await alice.at("confirm").click();
  await bob.sees("message deleted");
  await alice.messages("message deleted").waitFor();
  assert.deepEqual(await alice.log(), await bob.log());
  await alice.page.reload();
  await alice.sees("message deleted");
  assert.deepEqual(await alice.log(), await bob.log());
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("presence and typing", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.writesTo("bob");
  await alice.says("there?");
  await alice.reads("presence", "online");
  await bob.opens("@alice:bob");
  // The page shows for a few seconds only that a user is typing, so start waiting before bob types.
  await Promise.all([alice.reads("typing", "bob is typing…"), bob.at("composer").pressSequentially("well")]);
  await bob.at("composer").press("Enter");
  await alice.sees("well");
  await alice.page.getByText("bob is typing…").first().waitFor({ state: "detached" });
  await bob.page.close();
  await alice.reads("presence", /^last seen /);
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("unread messages: the line, the button, and the jump to the latest", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  const sendLine = (n) => server.posts("send", { as: "bob", to: "#general", text: `line ${n}` });
  for (let n = 1; n <= 30; n++) await sendLine(n);
  await alice.conversation("#general").getByTestId("unread").filter({ hasText: "31" }).waitFor();
  await alice.opens("#general");
  await alice.at("unread-line").waitFor();
  await alice.sees("line 1");
  await alice.at("jump").or(alice.at("new-pill")).first().click();
  await alice.sees("line 30");
  await alice.conversation("#general").getByTestId("unread").waitFor({ state: "detached" });
  await alice.at("log").evaluate((log) => log.scrollTo({ top: 0 }));
  await alice.at("jump").or(alice.at("new-pill")).first().waitFor();
  const scrollTopBefore = await alice.at("log").evaluate((log) => log.scrollTop);
  await sendLine(31);
  await alice.at("new-pill").filter({ hasText: "1 new message" }).waitFor();
  assert.equal(
    await alice.at("log").evaluate((log) => log.scrollTop),
    scrollTopBefore,
    "what comes moves nothing that is read",
  );
  await alice.at("new-pill").click();
  await alice.sees("line 31");
  await alice.at("new-pill").waitFor({ state: "detached" });
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a long history loads on scrolling, keeps the scroll position, and draws a bounded number of rows", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  for (let n = 1; n <= 600; n++) await server.posts("send", { as: "alice", to: "@bob", text: `line ${n}` });
  await alice.opens("@alice:bob");
  await alice.sees("line 600");
  const log = alice.at("log");
  let rows = 0;
  while (!(await alice.messages("line 1").count())) {
    // The row at the top of the view keeps its place after rows were drawn above it.
    const movement = await log.evaluate(async (log) => {
      const top = log.getBoundingClientRect().top;
      log.scrollTop = Math.min(log.scrollTop, 300);
      const visibleRow = [...log.querySelectorAll("[data-row]")].find(
        (one) => one.getBoundingClientRect().bottom > top,
      );
      const { row: name } = visibleRow.dataset;
      const topBefore = visibleRow.getBoundingClientRect().top;
      const first = log.querySelector("[data-row]").dataset.row;
      await new Promise((done) => {
        const observer = new MutationObserver(
          () => log.querySelector("[data-row]").dataset.row !== first && (observer.disconnect(), done()),
        );
        observer.observe(log, { childList: true, subtree: true });
        if (log.scrollTop <= 1) log.dispatchEvent(new Event("scroll"));
      });
      await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
      return Math.abs(log.querySelector(`[data-row="${CSS.escape(name)}"]`).getBoundingClientRect().top - topBefore);
    });
    assert.ok(movement <= 1, `it moved by ${movement} pixels`);
    rows = Math.max(rows, await alice.page.getByTestId("message").count());
  }
  assert.ok(rows <= 300, `${rows} rows`);
  await alice.at("jump").click();
  await alice.sees("line 600");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("rooms: create, invite, rename, roles, remove, join, leave", async (t) => {
  const [server, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.at("new-conversation").click();
  await alice.page.getByText("Create a room").click();
  await alice.at("new-title").fill("Release");
  await alice.at("new-id").fill("release");
  await alice.at("new-members").fill("bob");
  await alice.at("new-title").press("Enter");
  await alice.reads("room-title", "Release");
  await bob.opens("#release");
  await bob.says("I am in");
  await alice.sees("I am in");
  await server.posts("rename", { as: "alice", conversation: "#release", title: "Release 1.0" });
  await bob.reads("room-title", "Release 1.0");
  await server.posts("role", { as: "alice", conversation: "#release", user: "bob", role: "reader" });
  await bob.page.getByText("You may read here, but not write.").waitFor();
  await alice.at("room-menu").click();
  await alice.page.getByRole("menuitem", { name: "Members" }).click();
  await alice.at("members").getByText("bob").first().waitFor();
  await alice.at("members").getByRole("button", { name: "Remove bob" }).click();
  // Nobody is removed by one click.
  await alice.at("members").getByText("Remove bob from the room?").waitFor();
  await alice.at("confirm").click();
  await bob.conversation("#release").waitFor({ state: "detached" });
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("drafts, Escape and mentions", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await alice.writesTo("bob");
  await alice.says("one");
  await alice.at("composer").fill("a draft");
  await alice.opens("#general");
  assert.equal(await alice.at("composer").inputValue(), "");
  await alice.at("composer").pressSequentially("hi @bo");
  await alice.page.getByRole("option", { name: "bob" }).waitFor();
  await alice.at("composer").press("Enter");
  assert.equal(await alice.at("composer").inputValue(), "hi @bob ");
  await alice.at("composer").press("Enter");
  await alice.sees("hi @bob");
  await alice.opens("@alice:bob");
  assert.equal(await alice.at("composer").inputValue(), "a draft");
  await alice.at("composer").fill("");
  await alice.at("composer").press("ArrowUp");
  await alice.at("composer").press("Escape");
  assert.equal(await alice.at("composer").inputValue(), "");
  await alice.page.reload();
  await alice.is("online");
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("hostile texts are shown as text", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  const texts = [
    `<img src=x onerror="document.title='owned'">`,
    "</div><script>document.title='owned'</script>",
    "\u202Eright to left \u2066 and isolated",
    "javascript:alert(1)",
    "[x](javascript:alert(1))",
    "x".repeat(16 * 1024),
    "*".repeat(10_000),
    "`".repeat(10_000),
    "> ".repeat(5_000),
    "شكرا جزيلا",
  ];
  for (const text of texts) await server.posts("send", { as: "bob", to: "#general", text });
  await alice.opens("#general");
  await alice.at("jump").or(alice.at("new-pill")).first().click();
  await alice.sees(texts.at(-1));
  const log = alice.at("log");
  assert.equal(await log.locator("img, script, iframe, [onerror], a[href^='javascript' i]").count(), 0);
  assert.doesNotMatch(await alice.page.title(), /owned/);
  const shown = await alice.texts();
  assert.ok(shown.includes(texts[0]) && shown.includes(texts[1]) && shown.includes("x".repeat(16 * 1024)));
  assert.ok(await log.evaluate((node) => node.scrollWidth <= node.clientWidth), "a long word does not widen the page");
  // Right-to-left text affects only its own message.
  const time = alice.messages().filter({ hasText: "right to left" }).locator("time").first();
  if (await time.count()) assert.equal(await time.evaluate((node) => getComputedStyle(node).direction), "ltr");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a token is removed from the address; a wrong one shows the reason", async (t) => {
  const server = await Server.start(t);
  const personWithBadToken = await Person.open(t, browser, server, "stranger", "/#token=not-a-token");
  await personWithBadToken.page.getByText(/token/i).first().waitFor();
  assert.equal(new URL(personWithBadToken.page.url()).hash.includes("token"), false);
  assert.deepEqual(unexpectedConsoleMessages([personWithBadToken]), []);
});

test("a link with another user's name asks before it replaces the user of the tab", async (t) => {
  const [, alice] = await openPagesOf(t, browser, "alice");
  await alice.page.evaluate(() => (location.hash = "#user=mallory"));
  await alice.at("replace").filter({ hasText: "You are signed in as alice" }).waitFor();
  await alice.page.getByRole("button", { name: "Stay signed in as alice" }).click();
  await alice.is("online");
  assert.equal(await alice.at("me").textContent(), "alice");
  assert.doesNotMatch(alice.page.url(), /mallory/);
  await alice.page.goto(new URL("/?again#user=mallory", alice.page.url()).href);
  await alice.at("replace-accept").click();
  await alice.at("me").filter({ hasText: "mallory" }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("the list shows a draft, and its filters and search hide other conversations", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  await server.posts("send", { as: "bob", to: "@alice", text: "one" });
  await server.posts("send", { as: "carol", to: "@alice", text: "two" });
  await alice.opens("@alice:bob");
  await alice.at("composer").fill("not sent yet");
  await alice.opens("@alice:carol");
  await alice.conversation("@alice:bob").filter({ hasText: "Draft: not sent yet" }).waitFor();
  await alice.conversation("#general").getByTestId("unread").waitFor();
  await alice.page.getByRole("button", { name: "Unread", exact: true }).click();
  await alice.conversation("@alice:bob").waitFor({ state: "detached" });
  await alice.conversation("#general").waitFor();
  await alice.page.getByRole("button", { name: "All", exact: true }).click();
  await alice.at("finder").fill("bob");
  await alice.conversation("#general").waitFor({ state: "detached" });
  await alice.at("finder").press("Enter");
  await alice.reads("room-title", "bob");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("in a page from right to left, the sign of a room's address stays in front of it", async (t) => {
  const [, alice] = await openPagesOf(t, browser, "alice");
  await alice.opens("#general");
  await alice.page.evaluate(() => (document.documentElement.dir = "rtl"));
  const [sign, letter] = await alice.page.locator(".room-names p").evaluate((line) => {
    const text = line.firstChild;
    const at = text.data.indexOf("#");
    const leftEdge = (index) => {
      const range = document.createRange();
      range.setStart(text, index);
      range.setEnd(text, index + 1);
      return range.getBoundingClientRect().left;
    };
    return [leftEdge(at), leftEdge(at + 1)];
  });
  assert.ok(sign < letter, `"#" is at ${sign}, "g" at ${letter}`);
});

test("joins and renames are lines of the log", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  await server.posts("create", { as: "alice", room: "team", title: "Team", members: ["bob"], public: true });
  await alice.opens("#team");
  await server.posts("join", { as: "carol", conversation: "#team" });
  await server.posts("join", { as: "dana", conversation: "#team" });
  await alice.at("event").filter({ hasText: "carol, dana joined" }).waitFor();
  await server.posts("rename", { as: "alice", conversation: "#team", title: "The team" });
  await alice.at("event").filter({ hasText: "alice renamed the room to “The team”" }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("without a user the page asks for a name; after signing out it asks again", async (t) => {
  const server = await Server.start(t);
  const alice = await Person.open(t, browser, server, "alice", "/");
  await alice.at("signin-name").fill("alice");
  await alice.at("signin-name").press("Enter");
  await alice.is("online");
  await alice.at("me").filter({ hasText: "alice" }).first().waitFor();
  await alice.at("settings").click();
  await alice.at("sign-out").click();
  await alice.at("signin-name").waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("language and theme are stored", async (t) => {
  const [, alice] = await openPagesOf(t, browser, "alice");
  await alice.at("settings").click();
  await alice.at("language").selectOption("de");
  await alice.page.getByRole("heading", { name: "Einstellungen" }).waitFor();
  const colorScheme = () =>
    alice
      .at("status")
      .first()
      .evaluate((node) => getComputedStyle(node).colorScheme);
  await alice.at("theme").selectOption("dark");
  assert.equal(await colorScheme(), "dark");
  await alice.page.reload();
  await alice.is("online");
  assert.equal(await alice.page.evaluate(() => document.documentElement.lang), "de");
  assert.equal(await colorScheme(), "dark");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});
