// Tests that the page works in Firefox and in WebKit: signing in, sending, editing, the menu, the keyboard, a reload.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FirefoxPage, WebKitPage } from "./engines.js";
import { Server } from "./support.js";

const TEXT = "[data-testid=message][data-seq] [data-testid=text]";

const focused = (page, testid) => page.waitFor((id) => document.activeElement?.dataset.testid === id, testid);

const exists = (page, selector) => page.waitFor((one) => document.querySelector(one) !== null, selector);

const disappears = (page, selector) => page.waitFor((one) => document.querySelector(one) === null, selector);

/** Waits until the last stored message has this text. */
const lastTextIs = (page, text) =>
  page.waitFor((texts, text) => [...document.querySelectorAll(texts)].at(-1)?.textContent.trim() === text, TEXT, text);

for (const [engine, Page] of Object.entries({ Firefox: FirefoxPage, WebKit: WebKitPage })) {
  test(`${engine}: sign in, send, edit, react by the menu, answer, reload`, async (t) => {
    const server = await Server.start(t);
    const page = await Page.launch(t);
    await page.goto(`${server.url}/`);
    await page.click("[data-testid=signin-name]");
    await page.type("alice");
    await page.press("Enter");
    await exists(page, "[data-testid=status][data-state=online]");
    await page.click('[data-testid=conversation][data-id="#general"]');
    await focused(page, "composer");
    await page.type(`Hello from ${engine}`);
    await page.press("Enter");
    await lastTextIs(page, `Hello from ${engine}`);

    // In an empty composer, an arrow edits the last message.
    await page.press("ArrowUp");
    await page.waitFor((text) => document.activeElement.value === text, `Hello from ${engine}`);
    await page.type("!");
    await page.press("Enter");
    await lastTextIs(page, `Hello from ${engine}!`);

    // The log is one stop of the Tab key; Enter opens the menu, whose first item reacts.
    while (!(await page.evaluate(() => document.activeElement.dataset.testid === "message"))) {
      await page.press("Shift+Tab");
    }
    await page.press("End");
    await page.press("Enter");
    await page.waitFor(() => document.activeElement?.closest("[role=menu]") !== null);
    await page.press("Escape");
    await disappears(page, "[role=menu]");
    await focused(page, "message");
    await page.press("Enter");
    await page.waitFor(() => document.activeElement?.closest("[role=menu]") !== null);
    await page.press("Enter");
    await exists(page, "[data-testid=reaction]");

    // Another user's message arrives; what was typed and not sent survives a reload.
    await server.posts("send", { as: "bob", to: "#general", text: "Hello back" });
    await lastTextIs(page, "Hello back");
    await page.click("[data-testid=composer]");
    await focused(page, "composer");
    await page.type("not yet");
    await page.reload();
    await page.waitFor(() => document.querySelector("[data-testid=composer]")?.value === "not yet");
    await lastTextIs(page, "Hello back");
    const [, , , own, edit] = await server.log("alice", "#general").then((events) => events.slice(1));
    assert.deepEqual([own?.text, edit?.type], [`Hello from ${engine}`, "edit"]);
    assert.deepEqual(page.complaints ?? [], []);
  });
}
