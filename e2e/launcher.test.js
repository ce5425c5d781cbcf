// Tests the launcher in a page of another origin: what it loads, its badge and teaser, and how it opens and closes.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessibilityViolations } from "./axe.js";
import { recordEventsScript, openShop, waitForEvent } from "./shop.js";
import { unexpectedConsoleMessages, launchBrowser } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

/** All that a page loads before the first click, as sent. */
const MAX_BYTES = 12 * 1024;

const launcher =
  (attributes = "") =>
  (url) =>
    `<main><h1>Teas</h1><button>Buy</button><p class=long>A long page</p></main>
    <script type=module src="${url}/switchboard-launcher.js"></script>
    <switchboard-launcher conversation="@shop" ${attributes}></switchboard-launcher>`;
const script = recordEventsScript("switchboard-launcher");

const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

test("closed it is small, counts, and reads nothing; open it reads", async (t) => {
  const shop = await openShop(t, { body: launcher(), script });
  const alice = await shop.visit(browser);
  const { page } = alice;
  await alice.at("launcher").waitFor();
  await shop.server.hasConnections(1);
  await shop.writes("Your **tea** is on its way.");
  await alice.at("badge").getByText("1", { exact: true }).waitFor();
  assert.equal(await shop.unread("@alice:shop"), 1);
  await waitForEvent(alice, "unread", { count: 1, conversations: { "@alice:shop": 1 } });
  assert.equal(await page.getByRole("button", { name: "Open the chat (1 unread)" }).count(), 1);
  const loaded = await page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name));
  const scripts = loaded.filter((url) => url.startsWith(shop.server.url));
  assert.deepEqual(scripts, [`${shop.server.url}/switchboard-launcher.js`]);
  const sent = await fetch(scripts[0], { headers: { "accept-encoding": "br" } });
  const bytes = Number(sent.headers.get("content-length"));
  assert.ok(bytes > 0 && bytes <= MAX_BYTES, `${bytes} bytes before the first click`);

  // The new message is beside the bubble, and opens the chat.
  await alice.at("teaser").getByText("Your **tea** is on its way.").waitFor();
  await alice.at("launcher").click();
  await alice.messages().filter({ hasText: "on its way" }).waitFor();
  await shop.hasUnread("@alice:shop", 0);
  await alice.at("badge").waitFor({ state: "hidden" });
  await page.waitForFunction(() => {
    const chat = document.querySelector("switchboard-launcher > switchboard-chat");
    return chat?.shadowRoot.activeElement?.localName === "textarea";
  });
  await alice.says("Thank you!");
  await waitForEvent(alice, "sent", { conversation: "@alice:shop", text: "Thank you!" });
  // One connection: the chat's own, in place of that which counted.
  await shop.server.hasConnections(1);

  // Esc closes what is innermost first; then the focus is on the bubble.
  await alice.at("room-title").waitFor();
  await page.getByRole("button", { name: "Emoji" }).click();
  await alice.at("emoji-picker").waitFor();
  await page.keyboard.press("Escape");
  await alice.at("emoji-picker").waitFor({ state: "hidden" });
  assert.ok(await alice.at("panel").isVisible());
  await page.keyboard.press("Escape");
  await alice.at("panel").waitFor({ state: "hidden" });
  await page.waitForFunction(() => document.activeElement.shadowRoot?.activeElement?.dataset.testid === "launcher");
  await waitForEvent(alice, "close");

  // Closed again, the chat stays connected and counts.
  await shop.writes("You are welcome.");
  await alice.at("badge").getByText("1", { exact: true }).waitFor();
  assert.equal(await shop.unread("@alice:shop"), 1);

  // What was open is open on the next page, without the focus; the end of the tab forgets it.
  await alice.at("launcher").click();
  await shop.hasUnread("@alice:shop", 0);
  await page.reload();
  await alice.messages().filter({ hasText: "You are welcome." }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement === document.body), true);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("on a phone it fills the screen, and Back closes it", async (t) => {
  const shop = await openShop(t, { body: launcher('name="Tea & Leaf"'), script });
  const alice = await shop.visit(browser, phone);
  const { page } = alice;
  await page.evaluate(() => history.pushState({ route: "teas" }, "", "/?teas"));
  await alice.at("launcher").tap();
  await alice.at("composer").waitFor();
  assert.deepEqual(await alice.at("panel").boundingBox(), { x: 0, y: 0, width: 390, height: 844 });
  await alice.at("room-title").getByText("Tea & Leaf").waitFor();
  // The way out does not lie over the chat's own header.
  const [end, close] = await Promise.all([alice.at("presence").boundingBox(), alice.at("panel-close").boundingBox()]);
  assert.ok(end.x + end.width <= close.x, "the close button lies over the header");
  // The page behind takes no input.
  const taken = await page.evaluate(() => {
    const button = document.querySelector("main button");
    button.focus();
    return document.activeElement === button;
  });
  assert.equal(taken, false);
  await page.goBack();
  await alice.at("panel").waitFor({ state: "hidden" });
  assert.equal(new URL(page.url()).search, "?teas");
  assert.deepEqual(await page.evaluate(() => history.state), { route: "teas" });
  // Closed by its button, "back" leaves the page's entry as it was, too.
  await alice.at("launcher").tap();
  await alice.at("composer").waitFor();
  await alice.at("panel-close").tap();
  await alice.at("panel").waitFor({ state: "hidden" });
  await page.waitForFunction(() => history.state?.switchboardLauncher === undefined);
  assert.deepEqual(await page.evaluate(() => history.state), { route: "teas" });
  // A page that closes it and goes to another address stays there.
  await alice.at("launcher").tap();
  await alice.at("composer").waitFor();
  const steps = await page.evaluate(async () => {
    window.chat.close();
    history.pushState({ route: "order" }, "", "/?order");
    const { index } = navigation.currentEntry;
    // Comes after each step back that is under way.
    history.back();
    await new Promise((done) => addEventListener("popstate", done, { once: true }));
    return index - navigation.currentEntry.index;
  });
  assert.equal(steps, 1);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("the teaser comes by itself, and stays away once dismissed", async (t) => {
  const shop = await openShop(t, { body: launcher('teaser="Questions about tea?"'), script });
  const alice = await shop.visit(browser);
  await alice.at("teaser").getByText("Questions about tea?").waitFor();
  await alice.at("dismiss").click();
  await alice.at("teaser").waitFor({ state: "hidden" });
  await alice.page.reload();
  await shop.server.hasConnections(1);
  // A message comes after the time of the teaser, and shows itself only.
  await alice.page.waitForFunction(() => performance.now() > 3_000);
  assert.equal(await alice.at("teaser").isVisible(), false);
  await shop.writes("Your tea is here.");
  await alice.at("teaser").getByText("Your tea is here.").waitFor();
  await alice.at("teaser").click();
  await alice.at("composer").waitFor();
  await shop.hasUnread("@alice:shop", 0);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

for (const [device, screen] of Object.entries({ desktop: { viewport: { width: 1280, height: 800 } }, phone })) {
  for (const colorScheme of ["light", "dark"]) {
    test(`no violations of accessibility, closed and open: ${device}, ${colorScheme}`, async (t) => {
      const style = "html { color-scheme: light dark; }";
      const shop = await openShop(t, { body: launcher('teaser="Questions about tea?"'), script, style });
      const alice = await shop.visit(browser, { ...screen, colorScheme, reducedMotion: "reduce" });
      await alice.at("teaser").getByText("Questions about tea?").waitFor();
      await shop.writes("Your tea is here: https://shop.example/tea");
      await alice.at("badge").getByText("1", { exact: true }).waitFor();
      assert.deepEqual(await accessibilityViolations(alice.page), [], "closed");
      await alice.at("launcher").click();
      await alice.page.getByRole("link").waitFor();
      await shop.hasUnread("@alice:shop", 0);
      assert.deepEqual(await accessibilityViolations(alice.page), [], "open");
      await alice.page.evaluate(() => window.chat.signOut());
      await alice.at("launcher").click();
      await alice.at("signed-out").waitFor();
      assert.deepEqual(await accessibilityViolations(alice.page), [], "signed out");
    });
  }
}

test("its methods: open, compose, send, toggle, close, sign out", async (t) => {
  const shop = await openShop(t, { body: launcher('position="start" lang="de"'), script });
  const alice = await shop.visit(browser);
  const { page } = alice;
  await page.getByRole("button", { name: "Chat öffnen" }).waitFor();
  const stored = await page.evaluate(() => window.chat.send("Written by the page"));
  assert.equal(stored.conversation, "@alice:shop");
  assert.equal(await alice.at("panel").isVisible(), false);
  await page.evaluate(() => window.chat.compose("Is it in stock?"));
  await page.waitForFunction(() => {
    const field = document.querySelector("switchboard-chat").shadowRoot.querySelector("textarea");
    return field?.value === "Is it in stock?" && field.matches(":focus");
  });
  await alice.sees("Written by the page");
  const box = await alice.at("launcher").boundingBox();
  assert.equal(box.x, 20);
  await page.evaluate(() => window.chat.toggle());
  await alice.at("panel").waitFor({ state: "hidden" });
  await page.evaluate(() => window.chat.open());
  await alice.at("composer").waitFor();
  await page.evaluate(() => window.chat.signOut());
  await alice.at("panel").waitFor({ state: "hidden" });
  await shop.server.hasConnections(0);
  await waitForEvent(alice, "status", { state: "signed-out" });
  const kept = await page.evaluate(() => Object.keys(localStorage).filter((name) => name.includes("draft")));
  assert.deepEqual(kept, []);
  // Another token starts it again.
  await page.evaluate(() => (window.chat.token = async () => (await fetch("/chat-token")).text()));
  await shop.server.hasConnections(1);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("its look does not depend on the page's style sheet", async (t) => {
  const looks = [];
  const shop = await openShop(t, {
    body: launcher('teaser="Questions?" theme="light"'),
    script,
    style: () =>
      looks.length
        ? `html { font-size: 62.5%; } body { letter-spacing: 3px; text-transform: uppercase; color: red; cursor: wait; }
          * { margin: 13px; padding: 9px; color: lime; font-size: 8px; line-height: 4; box-sizing: content-box; }
          dialog, button { all: unset; }`
        : "",
  });
  for (let visit = 0; visit < 2; visit++) {
    const alice = await shop.visit(browser, { reducedMotion: "reduce" });
    await alice.at("teaser").waitFor();
    await alice.at("launcher").click();
    await alice.at("composer").waitFor();
    looks.push(
      await alice.page.evaluate(() =>
        [
          ...document
            .querySelector("switchboard-launcher")
            .shadowRoot.querySelectorAll("button, dialog, .teaser, .badge"),
        ]
          .concat([
            ...document.querySelector("switchboard-chat").shadowRoot.querySelectorAll("header, h2, textarea, button"),
          ])
          .map((node) => {
            const { x, y, width, height } = node.getBoundingClientRect();
            const { color, backgroundColor, fontSize, letterSpacing, textTransform, cursor } = getComputedStyle(node);
            return [
              node.className,
              x,
              y,
              width,
              height,
              color,
              backgroundColor,
              fontSize,
              letterSpacing,
              textTransform,
              cursor,
            ];
          }),
      ),
    );
  }
  assert.ok(looks[0].length > 6);
  assert.deepEqual(looks[1], looks[0]);
});
