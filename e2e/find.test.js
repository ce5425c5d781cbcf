// Tests how people find a message again: by its day, from a reply, and by a mention. And of the page's font.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessibilityViolations } from "./axe.js";
import { launchBrowser, openPagesOf, Person, Server, unexpectedConsoleMessages } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const HOUR_MS = 3_600_000;
const MESSAGES = 600;

/** Opens alice's conversation with bob, of `MESSAGES` messages, of which each seems to be an hour older than the next one. */
async function openLongConversation(t, options) {
  const server = await Server.start(t);
  for (let n = 1; n <= MESSAGES; n++) await server.posts("send", { as: "bob", to: "@alice", text: `line ${n}` });
  await server.posts("read", { as: "alice", conversation: "@bob", upto: MESSAGES });
  const alice = await Person.open(t, browser, server, "alice", "about:blank", options);
  const timeOf = (seq, at) => new Date(Date.parse(at) - Math.max(0, MESSAGES - seq) * HOUR_MS).toISOString();
  await alice.page.routeWebSocket(/\/v1\/ws/, (socket) => {
    const backEnd = socket.connectToServer();
    backEnd.onMessage((frame) => {
      const shifted = JSON.parse(frame, (_, value) =>
        value?.seq && value.at ? { ...value, at: timeOf(value.seq, value.at) } : value,
      );
      socket.send(JSON.stringify(shifted));
    });
  });
  await alice.page.goto("/#user=alice");
  await alice.is("online");
  await alice.opens("@alice:bob");
  await alice.sees(`line ${MESSAGES}`);
  return { server, alice };
}

/** Whether a message is in the view of the log. */
const isInView = (person, text) =>
  person.messages(text).evaluate((message) => {
    const [one, log] = [message, message.closest("[data-testid=log]")].map((node) => node.getBoundingClientRect());
    return one.top >= log.top && one.bottom <= log.bottom;
  });

test("one jumps to the first message of a day, and reads on from there to the latest without a hole", async (t) => {
  const { server, alice } = await openLongConversation(t);
  await alice.page.locator(".day").last().click();
  const day = new Date(Date.now() - 10 * 24 * HOUR_MS);
  const date = [day.getFullYear(), day.getMonth() + 1, day.getDate()].map((n) => String(n).padStart(2, "0")).join("-");
  await alice.at("jump-day").fill(date);
  assert.deepEqual(await accessibilityViolations(alice.page), []);
  await alice.page.getByRole("button", { name: "Jump", exact: true }).click();
  const first = alice.page.locator(".message.flash, [data-testid=message].flash").first();
  await first.waitFor();
  const label = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });
  const dayAbove = await first.evaluate((message) => {
    let row = message;
    while (row && !row.classList.contains("day")) row = row.previousElementSibling;
    return [row?.textContent.trim(), message.previousElementSibling === row];
  });
  assert.deepEqual(dayAbove, [label.format(day), true]);
  const text = await first.getByTestId("text").textContent();
  assert.ok(await isInView(alice, text.trim()));

  // A reaction of another user to a message of that day shows.
  const seq = Number(await first.getAttribute("data-seq"));
  await server.posts("react", { as: "bob", conversation: "@alice", target: seq, emoji: "👍" });
  await alice.messages(text.trim()).getByTestId("reaction").waitFor();

  const seen = new Set();
  for (let steps = 0; !seen.has(MESSAGES); steps++) {
    assert.ok(steps < 400, `${Math.max(...seen)} is as far as it goes`);
    for (const [one] of await alice.log()) seen.add(one);
    await alice.at("log").evaluate(async (log) => {
      log.scrollTop += log.clientHeight / 2;
      await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    });
  }
  for (let one = seq; one <= MESSAGES; one++) assert.ok(seen.has(one), `${one} is missing`);
  await server.posts("send", { as: "bob", to: "@alice", text: "and live" });
  await alice.sees("and live");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("the menu of a direct conversation leads to its beginning, and an answer back to the end", async (t) => {
  const { server, alice } = await openLongConversation(t, { viewport: { width: 390, height: 844 } });
  await alice.at("room-menu").click();
  await alice.page.getByRole("menuitem", { name: "Jump to a day" }).click();
  await alice.at("jumpBeginning").click();
  await alice.sees("line 1");
  assert.ok(await isInView(alice, "line 1"));
  await alice.says("So long ago!");
  await alice.sees("So long ago!");
  assert.ok(await isInView(alice, "So long ago!"));
  // A reply leads to what it answers, however far back.
  await server.posts("send", { as: "bob", to: "@alice", text: "that one", reply_to: 3 });
  await alice.messages("that one").getByTestId("reply-quote").click();
  await alice.sees("line 3");
  await alice.at("jump").click();
  await alice.sees("that one");
  // After the last day there is nothing.
  await alice.at("room-menu").click();
  await alice.page.getByRole("menuitem", { name: "Jump to a day" }).click();
  await alice.at("jump-day").evaluate((field) => field.removeAttribute("max"));
  await alice.at("jump-day").fill("2999-01-01");
  await alice.page.getByRole("button", { name: "Jump", exact: true }).click();
  await alice.page.getByRole("alert").filter({ hasText: "There are no messages on that day" }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a filter shows the conversations that mention one, also if later messages do not", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  const send = (text, to = "#general") => server.posts("send", { as: "bob", to, text });
  await send("@alice, have a look");
  await send("and another thing");
  await send("not to @alicent, and `@alice` in code", "@alice");
  await server.posts("send", { as: "carol", to: "@alice", text: "nothing" });
  await alice.conversation("#general").getByTestId("mentioned").waitFor();
  // A page that opens later finds the mention in the unread messages.
  const again = await Person.arrive(t, browser, server, "alice");
  for (const person of [alice, again]) {
    await person.page.getByRole("button", { name: "Mentions", exact: true }).click();
    await person.conversation("@alice:bob").waitFor({ state: "detached" });
    await person.conversation("#general").getByTestId("mentioned").waitFor();
    assert.equal(await person.at("conversation").count(), 1);
    assert.deepEqual(await accessibilityViolations(person.page), []);
  }
  // Read messages do not count; the open conversation stays in the list.
  await alice.opens("#general");
  await alice.at("mentioned").waitFor({ state: "detached" });
  await again.page.getByText("No unread message mentions you.").waitFor();
  await again.page.getByRole("button", { name: "Show all" }).click();
  await again.conversation("@alice:bob").waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice, again]), []);
});

test("the page has a font of its own, and loads of it what its texts need", async (t) => {
  const [, alice] = await openPagesOf(t, browser, "alice");
  const loaded = () =>
    alice.page.evaluate(async () => {
      await document.fonts.ready;
      const entries = performance.getEntriesByType("resource").filter(({ name }) => name.endsWith(".woff2"));
      return entries.map(({ name }) =>
        name
          .split("/")
          .at(-1)
          .replace(/-wght.*/, ""),
      );
    });
  assert.deepEqual(await loaded(), ["inter-latin"]);
  assert.ok(await alice.page.evaluate(() => document.fonts.check("600 16px 'Inter Variable'")));
  assert.equal(alice.response.headers()["cross-origin-opener-policy"], "same-origin");
  await alice.opens("#general");
  await alice.says("Привет");
  await alice.sees("Привет");
  await alice.page.waitForFunction(() =>
    performance.getEntriesByType("resource").some(({ name }) => name.includes("inter-cyrillic-wght")),
  );
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});
