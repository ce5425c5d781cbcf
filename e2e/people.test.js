// Tests of names and pictures on the page, in a real browser.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launchBrowser, Person, postCall, Server, unexpectedConsoleMessages } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

test("people have names in the list, beside messages and in the title, and a new name shows at once", async (t) => {
  const server = await Server.start(t);
  const profiles = [
    { user: "usr_8f3a21", name: "Ana María López" },
    { user: "alice", name: "Alice Martin" },
  ];
  await postCall(server, "profiles", { profiles });
  await postCall(server, "send", { as: "usr_8f3a21", to: "@bob", text: "an order" });
  await postCall(server, "join", { as: "usr_8f3a21", conversation: "#general" });
  await postCall(server, "send", { as: "usr_8f3a21", to: "#general", text: "hello all" });
  const bob = await Person.arrive(t, browser, server, "bob");
  const row = bob.conversation("@bob:usr_8f3a21");
  await row.getByText("Ana María López", { exact: true }).waitFor();
  await bob.opens("#general");
  await bob.sees("hello all");
  await bob.page.locator("[data-testid=message] .author").getByText("Ana María López").waitFor();
  await bob.page.locator("[data-testid=message] .author").getByText("Alice Martin").first().waitFor();
  await postCall(server, "profiles", { profiles: [{ user: "usr_8f3a21", name: "Ana López" }] });
  await row.getByText("Ana López", { exact: true }).waitFor();
  await bob.page.locator("[data-testid=message] .author").getByText("Ana López", { exact: true }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([bob]), []);
});

test("one finds people by name, and changes one's own name in the settings", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_PERMISSIONS_DIRECTORY: "all" } });
  await postCall(server, "profiles", { profiles: [{ user: "usr_8f3a21", name: "Ana María López" }] });
  const bob = await Person.arrive(t, browser, server, "bob");
  await bob.at("new-conversation").click();
  await bob.at("new-name").fill("lóp");
  const found = bob.page.locator(".person[data-user=usr_8f3a21]");
  await found.getByText("Ana María López").waitFor();
  await found.click();
  await bob.at("new-name").press("Enter");
  await bob.at("composer").waitFor();
  await bob.says("hi Ana");
  await bob.sees("hi Ana");
  await bob.conversation("@bob:usr_8f3a21").getByText("Ana María López", { exact: true }).waitFor();
  await bob.at("settings").click();
  await bob.at("own-name").fill("Bob <b>B.</b>");
  await bob.at("own-name-save").click();
  await bob.page.getByText("✓").waitFor();
  const ana = await Person.arrive(t, browser, server, "usr_8f3a21");
  await ana.conversation("@bob:usr_8f3a21").getByText("Bob <b>B.</b>", { exact: true }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([bob, ana]), []);
});

test("pictures stand in the list, in the header and beside messages; one that does not load leaves the letters", async (t) => {
  const server = await Server.start(t, { env: { SWITCHBOARD_PROFILES_AVATAR_HOSTS: "pictures.example" } });
  const profiles = ["ana", "ben"].map((user) => ({ user, avatar: `https://pictures.example/${user}.svg` }));
  await postCall(server, "profiles", { profiles });
  for (const { user } of profiles) await postCall(server, "send", { as: user, to: "@bob", text: `hi from ${user}` });
  const bob = await Person.open(t, browser, server, "bob", "about:blank");
  const picture =
    '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8" fill="#a0f"/></svg>';
  const asked = [];
  await bob.page.route("https://pictures.example/**", (route) => {
    asked.push([new URL(route.request().url()).pathname, route.request().headers().referer]);
    return asked.at(-1)[0] === "/ana.svg"
      ? route.fulfill({ contentType: "image/svg+xml", body: picture })
      : route.fulfill({ status: 404 });
  });
  await bob.page.goto("/#user=bob");
  await bob.opens("@ana:bob");
  await bob.sees("hi from ana");
  /** Waits for the picture in a part of the page. */
  const isDrawn = (part) =>
    bob.page.waitForFunction((part) => {
      const image = document.querySelector(`${part} .avatar img`);
      return image?.complete && image.naturalWidth > 0 && image.getBoundingClientRect().width >= 16;
    }, part);
  for (const part of ['[data-id="@ana:bob"]', ".room-header"]) await isDrawn(part);
  // In a room others have their picture beside their messages.
  await postCall(server, "join", { as: "ana", conversation: "#general" });
  await postCall(server, "send", { as: "ana", to: "#general", text: "hello all" });
  await bob.opens("#general");
  await bob.sees("hello all");
  await isDrawn("[data-testid=log] .message");
  // No picture of ben, and no sign of a broken one: the letters stay.
  const sign = bob.conversation("@ben:bob").locator(".avatar");
  await bob.page.waitForFunction(() => !document.querySelector('[data-id="@ben:bob"] .avatar img'));
  assert.equal(await sign.getAttribute("data-sign"), "BE");
  assert.ok(asked.every(([, referer]) => referer === undefined));
  assert.deepEqual(unexpectedConsoleMessages([bob], /404/), []);
});
