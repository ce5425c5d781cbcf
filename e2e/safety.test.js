// Tests of safety on the page, in a real browser: what an app's users need against unwanted people (Apple's guideline 1.2).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessibilityViolations } from "./axe.js";
import { launchBrowser, openPagesOf, Person, postCall, Server, unexpectedConsoleMessages } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

test("one blocks a person from a message, no longer sees them, and unblocks them in the settings", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  for (const person of [alice, bob]) await person.opens("#general");
  await bob.says("buy my watches");
  await alice.sees("buy my watches");
  await alice.chooses("buy my watches", "Block bob");
  await alice.page.getByRole("heading", { name: "Block bob?" }).waitFor();
  assert.deepEqual(await accessibilityViolations(alice.page), []);
  await alice.at("confirm").click();
  await alice.page.getByText("1 message from bob, blocked").last().waitFor();
  await bob.says("cheap watches");
  await alice.page.getByText("2 messages from bob, blocked").last().waitFor();
  assert.equal(await alice.page.getByRole("main").getByText("watches").count(), 0);
  await alice.says("peace at last");
  await bob.sees("peace at last");

  await alice.at("settings").click();
  const blocked = alice.at("blocked-users").locator("[data-user=bob]");
  await blocked.waitFor();
  assert.deepEqual(await accessibilityViolations(alice.page), []);
  await blocked.getByRole("button", { name: "Unblock bob" }).click();
  await alice.page.getByText("You have blocked nobody.").waitFor();
  await alice.page.keyboard.press("Escape");
  await alice.sees("cheap watches");
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("a direct conversation with a blocked person leaves the list, and comes back", async (t) => {
  const [, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  await bob.writesTo("alice");
  await bob.says("hello you");
  await alice.conversation("@alice:bob").click();
  await alice.sees("hello you");
  await alice.page.getByRole("button", { name: "More about this conversation" }).click();
  await alice.page.getByRole("menuitem", { name: "Block" }).click();
  await alice.at("confirm").click();
  await alice.at("blocked").waitFor();
  await alice.conversation("@alice:bob").waitFor({ state: "detached" });
  await bob.says("are you there?");
  await bob.sees("are you there?");
  await alice.at("blocked").getByRole("button", { name: "Unblock" }).click();
  await alice.sees("are you there?");
  await alice.conversation("@alice:bob").waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

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

test("a person reports a message; a moderator reads around it, deletes it, and both learn of it", async (t) => {
  const [server, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  for (const person of [alice, bob]) await person.opens("#general");
  await bob.says("good morning");
  await bob.says("cheap pills");
  await alice.chooses("cheap pills", "Report");
  await alice.at("report-reason").selectOption("spam");
  await alice.at("report-text").fill("the third time");
  assert.deepEqual(await accessibilityViolations(alice.page), []);
  await alice.page.getByRole("button", { name: "Send the report" }).click();
  await alice.page.getByText("Thank you. The moderators look at it.").waitFor();

  const moderator = await Person.open(t, browser, server, "mia", "/moderate");
  assert.deepEqual(await accessibilityViolations(moderator.page), []);
  await moderator.at("credentials").fill(await server.createKey("mia", "--scope", "moderate"));
  await moderator.at("sign-in").click();
  await moderator.at("reports").getByText("cheap pills").click();
  await moderator.at("snapshot").getByText("cheap pills").waitFor();
  await moderator.at("report").getByText("the third time").waitFor();
  await moderator.at("report").getByText("There are none.").waitFor();
  await moderator.at("claim").click();
  await moderator.at("state-claimed").click();
  await moderator.at("reports").getByText("cheap pills").click();
  await moderator.at("show-context").click();
  await moderator.at("context").getByText("good morning").waitFor();
  assert.deepEqual(await accessibilityViolations(moderator.page), []);
  await moderator.at("action").selectOption("delete");
  await moderator.at("tell").fill("No advertising here.");
  await moderator.at("decide").click();

  await bob.page.getByText("A moderator has deleted what you wrote: No advertising here.").waitFor();
  await alice.page.getByText("The moderators have acted on your report. Thank you.").waitFor();
  await alice.messages("cheap pills").waitFor({ state: "detached" });
  await moderator.at("state-done").click();
  await moderator.at("reports").locator("[data-report]").first().click();
  await moderator
    .at("report")
    .getByText(/^mia: Delete the message/)
    .waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice, bob, moderator]), []);
});

test("a moderator silences a person who was reported before, and a user without the right is refused", async (t) => {
  const server = await Server.start(t);
  const refused = await Person.open(t, browser, server, "eve", "/moderate");
  await refused.at("credentials").fill(await server.createKey("nosy", "--scope", "people"));
  await refused.at("sign-in").click();
  await refused.page.getByRole("alert").waitFor();

  const bob = await Person.arrive(t, browser, server, "bob");
  await bob.opens("#general");
  await bob.says("first");
  await bob.says("second");
  await bob.sees("second");
  const own = (await bob.log()).filter(([, text]) => ["first", "second"].includes(text));
  await postCall(server, "join", { as: "alice", conversation: "#general" });
  for (const [target] of own)
    await postCall(server, "report", { as: "alice", conversation: "#general", target, reason: "abuse" });
  const moderator = await Person.open(t, browser, server, "mia", "/moderate");
  await moderator.at("credentials").fill(await server.createKey("mia", "--scope", "moderate"));
  await moderator.at("sign-in").click();
  await moderator.at("reports").getByText("first").click();
  await moderator.at("report").locator("[data-report]").click();
  await moderator.at("snapshot").getByText("second").waitFor();
  await moderator.at("action").selectOption("silence");
  await moderator.at("duration").selectOption("day");
  await moderator.at("decide").click();
  await bob.at("composer").waitFor({ state: "detached" });
  await moderator.at("reports").getByText("second").waitFor({ state: "detached" });
});

test("a message waits for a moderator: released, everybody sees it once; rejected, only its author knows of it", async (t) => {
  const [server, alice, bob] = await openPagesOf(t, browser, "alice", "bob");
  for (const person of [alice, bob]) await person.opens("#general");
  await postCall(server, "ban", { user: "bob", shadow: true });
  for (const text of ["first of all", "cheap pills"]) {
    await bob.says(text);
    await bob.page.getByText(text).waitFor();
  }
  await bob.at("held").filter({ hasText: "waits for a moderator" }).last().waitFor();
  assert.deepEqual(await accessibilityViolations(bob.page), []);
  await bob.page.reload();
  await bob.opens("#general");
  await bob.at("held").nth(1).waitFor();

  const moderator = await Person.open(t, browser, server, "mia", "/moderate");
  await moderator.at("credentials").fill(await server.createKey("mia", "--scope", "moderate"));
  await moderator.at("sign-in").click();
  for (const [text, action, note] of [
    ["first of all", "release", "fine"],
    ["cheap pills", "reject", "spam"],
  ]) {
    await moderator.at("reports").getByText(text).click();
    await moderator.page.getByRole("heading", { name: "Held message of bob" }).waitFor();
    await moderator.at("snapshot").getByText(text).waitFor();
    assert.deepEqual(await accessibilityViolations(moderator.page), []);
    await moderator.at("action").selectOption(action);
    await moderator.at("note").fill(note);
    await moderator.at("decide").click();
    await moderator.at("reports").getByText(text).waitFor({ state: "detached" });
  }
  await alice.sees("first of all");
  await bob.sees("first of all");
  await bob.page.getByText("A moderator has not let your message through.").waitFor();
  await bob.page.getByText("cheap pills").waitFor();
  await bob.at("held").first().waitFor({ state: "detached" });
  assert.equal(await bob.messages("first of all").count(), 1);
  assert.equal(await alice.page.getByText("cheap pills").count(), 0);
  assert.deepEqual(unexpectedConsoleMessages([alice, moderator]), []);
});
