// Tests of accessibility: axe-core finds no violation in any view, and everything works by keyboard and on a phone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessibilityViolations } from "./axe.js";
import { unexpectedConsoleMessages, launchBrowser, Person, Server, openPagesOf } from "./support.js";
import { visitEveryView } from "./views.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

for (const colorScheme of ["light", "dark"]) {
  for (const [device, screen] of [
    ["desktop", { viewport: { width: 1280, height: 800 } }],
    ["phone", { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true }],
  ]) {
    test(`no violations on any view: ${device}, ${colorScheme}`, async (t) => {
      const server = await Server.start(t);
      const options = { colorScheme, ...screen, reducedMotion: "reduce" };
      await visitEveryView(t, browser, server, options, async (name, page) => {
        assert.deepEqual(await accessibilityViolations(page), [], name);
      });
    });
  }
}

test("everything works by keyboard", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  const { page } = alice;
  const focusedElementLabel = () =>
    page.evaluate(() => document.activeElement?.getAttribute("data-testid") ?? document.activeElement?.tagName);
  // Move to the conversation by Tab only.
  for (let tabs = 0; (await focusedElementLabel()) !== "conversation"; tabs++) {
    assert.ok(tabs < 20, "the list is a few Tabs away");
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await alice.at("composer").waitFor();
  await page.waitForFunction(() => document.activeElement?.matches("[data-testid=composer]"));
  await page.keyboard.type("typed");
  await page.keyboard.press("Enter");
  await alice.sees("typed");
  // The log is one Tab stop; arrow keys move between messages.
  for (let tabs = 0; (await focusedElementLabel()) !== "message"; tabs++) {
    assert.ok(tabs < 20, "the log is a few Tabs away");
    await page.keyboard.press("Shift+Tab");
  }
  assert.equal(await page.locator("[data-testid=message][tabindex='0']").count(), 1, "one stop");
  await page.keyboard.press("End");
  const accessibleLabel = () =>
    page.evaluate(() =>
      document.activeElement
        .getAttribute("aria-labelledby")
        .split(" ")
        .map((id) => document.getElementById(id)?.textContent.trim())
        .join(" "),
    );
  assert.match(await accessibleLabel(), /^You, .*typed/);
  await page.keyboard.press("ArrowUp");
  assert.match(await accessibleLabel(), /^You, .*Open the other link/);
  // A new message does not take the focus.
  await server.posts("send", { as: "bob", to: "#general", text: "and now?" });
  await alice.sees("and now?");
  assert.match(await accessibleLabel(), /Open the other link/);
  await alice.at("announcer").filter({ hasText: "bob: and now?" }).first().waitFor({ state: "attached" });
  // React through the menu.
  await page.keyboard.press("End");
  await page.keyboard.press("Enter");
  await page.getByRole("menu").waitFor();
  await page.keyboard.press("Enter");
  await alice.messages("and now?").getByTestId("reaction").waitFor();
  // Open and close the list of shortcuts.
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await focusedElementLabel(), "message", "the focus returns");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a letter does nothing outside the log, so that speech input triggers no shortcut", async (t) => {
  const [, alice] = await openPagesOf(t, browser, "alice");
  const { page } = alice;
  await alice.opens("#general");
  await alice.at("settings").focus();
  await page.keyboard.press("?");
  await page.keyboard.press("c");
  assert.equal(await page.getByRole("dialog").count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "settings");
  // Ctrl+K searches the list, F6 moves on to the messages and to the composer.
  await page.keyboard.press("Control+k");
  await page.waitForFunction(() => document.activeElement.dataset.testid === "finder");
  await page.keyboard.type("gen");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.id), "#general");
  await page.keyboard.press("F6");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "message");
  await page.keyboard.press("F6");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "composer");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("the whole list of conversations is one Tab stop", async (t) => {
  const [server, alice] = await openPagesOf(t, browser, "alice");
  for (const user of ["bob", "carol", "dana"]) await server.posts("send", { as: user, to: "@alice", text: "hi" });
  await alice.conversation("@alice:dana").waitFor();
  assert.equal(await alice.page.locator("[data-testid=conversation][tabindex='0']").count(), 1);
  await alice.page.locator("[data-testid=conversation][tabindex='0']").focus();
  const firstFocusedId = await alice.page.evaluate(() => document.activeElement.dataset.id);
  await alice.page.keyboard.press("ArrowDown");
  assert.notEqual(await alice.page.evaluate(() => document.activeElement.dataset.id), firstFocusedId);
});

/** Moves a finger over the page: `touchstart` at the first point, a move to each other point, then `touchend`. */
async function dragFinger(page, points, held) {
  const session = await page.context().newCDPSession(page);
  const dispatchTouch = (type, touchPoints) => session.send("Input.dispatchTouchEvent", { type, touchPoints });
  await dispatchTouch("touchStart", [points[0]]);
  for (const point of points.slice(1)) await dispatchTouch("touchMove", [point]);
  await held?.();
  await dispatchTouch("touchEnd", []);
}

test("on a phone: a long press opens the menu, a swipe replies, Enter begins a line", async (t) => {
  const server = await Server.start(t);
  const options = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
  await server.posts("send", { as: "bob", to: "@alice", text: "press or swipe me" });
  const alice = await Person.arrive(t, browser, server, "alice", options);
  await alice.conversation("@alice:bob").tap();
  await alice.sees("press or swipe me");
  const bubbleBox = await alice.messages("press or swipe me").locator(".bubble").boundingBox();
  const [x, y] = [bubbleBox.x + 40, bubbleBox.y + bubbleBox.height / 2];
  await dragFinger(alice.page, [{ x, y }], () => alice.page.locator(".message.held").waitFor());
  await alice.page.getByRole("menu").waitFor();
  await alice.page.keyboard.press("Escape");
  await alice.page.getByRole("menu").waitFor({ state: "detached" });
  await dragFinger(alice.page, [
    { x, y },
    { x: x + 30, y },
    { x: x + 70, y },
  ]);
  await alice.page.getByText("Replying to bob").waitFor();
  await alice.at("composer").fill("one line");
  await alice.at("composer").press("Enter");
  assert.equal(await alice.at("composer").inputValue(), "one line\n");
  await alice.at("composer").pressSequentially("and another");
  await alice.at("send").tap();
  await alice.messages().filter({ hasText: "and another" }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("on a phone: one pane, large touch targets, and the phone's back button", async (t) => {
  const server = await Server.start(t);
  const options = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
  const alice = await Person.arrive(t, browser, server, "alice", options);
  const bob = await Person.arrive(t, browser, server, "bob");
  await alice.conversation("#general").tap();
  await alice.at("composer").waitFor();
  assert.equal(await alice.conversation("#general").isVisible(), false, "the list has made room");
  await alice.at("composer").fill("from a phone");
  await alice.at("send").tap();
  await bob.opens("#general");
  await bob.sees("from a phone");
  const tooSmallTargets = await alice.page.evaluate(() =>
    [...document.querySelectorAll("button, a, textarea, input")]
      .filter((node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
      .map((node) => [node.getAttribute("aria-label") ?? node.textContent.trim(), node.getBoundingClientRect()])
      .filter(([, { width, height }]) => width > 0 && (width < 24 || height < 24))
      .map(([name, { width, height }]) => `${name} ${width}x${height}`),
  );
  assert.deepEqual(tooSmallTargets, []);
  assert.ok(
    await alice.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
    "nothing is wider than the phone",
  );
  await alice.page.goBack();
  await alice.conversation("#general").waitFor();
  await alice.conversation("#general").tap();
  await alice.at("back").tap();
  await alice.conversation("#general").waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});
