// Tests of safety on the page, in a real browser: what an app's users need against unwanted people (Apple's guideline 1.2).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessibilityViolations } from "./axe.js";
import { launchBrowser, Person, Server } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

/** Sends a call of a back end, which a `dev` server takes without a key. */
async function postCall(server, call, body) {
  const answer = await fetch(`${server.url}/v1/${call}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200, await answer.text());
}

test("a banned person sees until when and why, and comes back when the ban has ended", async (t) => {
  const server = await Server.start(t);
  const bob = await Person.arrive(t, browser, server, "bob");
  await bob.opens("#general");
  await postCall(server, "ban", { user: "bob", until: "2031-05-04T12:00:00Z", reason: "spam, three times" });
  const screen = bob.at("banned");
  await screen.getByText(/You are banned from this server until .*2031/).waitFor();
  await screen.getByText("spam, three times").waitFor();
  assert.deepEqual(await accessibilityViolations(bob.page), []);
  await postCall(server, "ban", { user: "bob", on: false });
  await screen.getByRole("button", { name: "Try again" }).click();
  await bob.opens("#general");
  await bob.says("I am back");
  await bob.sees("I am back");
});
