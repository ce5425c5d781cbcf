// Tests that the page, the element and the frame offer only what the user's permissions allow, and say why something failed.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { accessibilityViolations } from "./axe.js";
import { openShop } from "./shop.js";
import { launchBrowser, Person, Server, unexpectedConsoleMessages } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

/** The settings of a shop, in which customers write to agents only. */
const SHOP = {
  SWITCHBOARD_PERMISSIONS_CREATE_ROOMS: "false",
  SWITCHBOARD_PERMISSIONS_PUBLIC_ROOMS: "false",
  SWITCHBOARD_PERMISSIONS_INVITE: "admins",
  SWITCHBOARD_PERMISSIONS_CONTACT: "agent_*",
  SWITCHBOARD_PERMISSIONS_DIRECTORY: "off",
};
/** Settings that permit to start nothing, from a file, because an empty variable means the default. */
async function permitNothing(t) {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-permissions-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const file = join(directory, "switchboard.toml");
  await writeFile(file, "[permissions]\ncreate_rooms = false\npublic_rooms = false\ncontact = []\n");
  return { SWITCHBOARD_CONFIG: file };
}

test("a customer can write to agents, and is offered neither rooms nor other customers", async (t) => {
  const server = await Server.start(t, { env: SHOP });
  const bob = await Person.arrive(t, browser, server, "bob");
  await bob.at("new-conversation").click();
  await bob.page.getByRole("heading", { name: "Write to a user" }).waitFor();
  assert.equal(await bob.page.locator(".ways").count(), 0);
  await bob.at("new-name").fill("mallory");
  await bob.at("new-name").press("Enter");
  await bob.page.getByRole("alert").filter({ hasText: "You may not be the first to write to this user" }).waitFor();
  assert.deepEqual(await accessibilityViolations(bob.page), []);
  await bob.at("new-name").fill("agent_7");
  await bob.at("new-name").press("Enter");
  await bob.says("Where is my order?");
  await bob.sees("Where is my order?");

  // The search offers to write to an agent, and to no other user.
  await bob.at("finder").fill("agent_9");
  await bob.page.getByRole("button", { name: "Write to agent_9" }).waitFor();
  await bob.at("finder").fill("mallory");
  await bob.page.getByText("No conversation has this name.").waitFor();
  await bob.at("finder").press("Enter");
  await bob.at("finder").fill("");

  // An address leads to a conversation that bob may not begin, and to a room that he may not join.
  await bob.page.evaluate(() => (location.hash = "#/c/@mallory"));
  await bob.at("out-of-reach").waitFor();
  assert.equal(await bob.at("composer").count(), 0);
  await bob.page.evaluate(() => (location.hash = "#/c/%23secret"));
  await bob.page.getByText("There is no such room, or you are not a member.").waitFor();
  assert.equal(await bob.page.getByRole("button", { name: "Join", exact: true }).count(), 0);

  // A member of the public room may not invite, its admin may.
  const alice = await Person.arrive(t, browser, server, "alice");
  for (const [person, mayInvite] of [
    [bob, 0],
    [alice, 1],
  ]) {
    await person.opens("#general");
    await person.at("room-menu").click();
    await person.page.getByRole("menuitem", { name: "Members" }).click();
    await person.at("members").waitFor();
    assert.equal(await person.page.getByLabel("User to invite").count(), mayInvite, person.name);
  }

  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

test("who may start nothing sees no button for it, and can answer", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_PERMISSIONS_CONTACT: "shared" } });
  await server.posts("send", { as: "alice", to: "@bob", text: "Your order is here." });
  const zoe = await Person.arrive(t, browser, server, "zoe");
  // Whether two users share a conversation is known to the server alone: the message fails, with the reason.
  await zoe.writesTo("alice");
  await zoe.says("hello?");
  await zoe.page.getByText("Not sent: You may not be the first to write to this user, nor invite them.").waitFor();
  // The same data with other settings.
  await server.stop();
  server.env = await permitNothing(t);
  await server.start();
  const bob = await Person.arrive(t, browser, server, "bob");
  await bob.conversation("@alice:bob").waitFor();
  await bob.page.getByText("Choose a conversation.", { exact: true }).waitFor();
  assert.equal(await bob.page.locator("[part=new]").count(), 0);
  await bob.opens("@alice:bob");
  await bob.says("Thank you.");
  await bob.sees("Thank you.");
  await zoe.reconnects();
  await zoe.at("new-conversation").waitFor({ state: "detached" });
  assert.deepEqual(unexpectedConsoleMessages([bob]), []);
});

test("the element and the frame offer only what is permitted, too", async (t) => {
  const script = `
    document.querySelector("switchboard-chat").token = async () => (await fetch("/chat-token")).text();
    const frame = document.querySelector("iframe");
    addEventListener("message", async ({ source, origin, data }) => {
      if (source !== frame.contentWindow || data.type !== "switchboard:token-request") return;
      source.postMessage({ type: "switchboard:token", token: await (await fetch("/chat-token")).text() }, origin);
    });
    frame.src = frame.dataset.src;`;
  const body = (url) => `<script type=module src="${url}/switchboard-chat.js"></script>
    <switchboard-chat></switchboard-chat><iframe title=Chat width=800 height=600 data-src="${url}/embed"></iframe>`;
  const shop = await openShop(t, { body, script, settings: await permitNothing(t) });
  const alice = await shop.visit(browser);
  for (const chat of [alice.page.locator("switchboard-chat"), alice.page.frameLocator("iframe")]) {
    await chat.locator("[data-testid=status][data-state=online]").first().waitFor({ state: "attached" });
    await chat.getByText("No conversations yet.", { exact: true }).waitFor();
    assert.equal(await chat.locator("[part=new]").count(), 0);
  }
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});
