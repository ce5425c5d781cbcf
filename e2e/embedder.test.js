// Tests the interface between an embedded chat and its page: attributes, texts, errors, signing out, and the frame's messages.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { recordEventsScript, openShop, waitForEvent } from "./shop.js";
import { unexpectedConsoleMessages, launchBrowser } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const chatElement = (attributes) => (url) =>
  `<script type=module src="${url}/switchboard-chat.js"></script><switchboard-chat ${attributes}></switchboard-chat>`;

for (const [name, message] of [
  ["support", /support is no conversation: write #room, @user/],
  ["@bob:carol", /@bob:carol is a conversation of two others/],
]) {
  test(`conversation="${name}" is an error that the developer and the user see`, async (t) => {
    const shop = await openShop(t, {
      body: chatElement(`mode="single" conversation="${name}"`),
      script: recordEventsScript(),
    });
    const alice = await shop.visit(browser);
    await alice.at("wrong-conversation").getByText("This conversation does not exist.").waitFor();
    const { detail } = await waitForEvent(alice, "error", { code: "invalid" });
    assert.match(detail.message, message);
    assert.match(alice.complaints.join("\n"), message);
  });
}

test("without a token the user and the developer see why there is no chat", async (t) => {
  const shop = await openShop(t, { body: chatElement('conversation="@shop"'), script: "" });
  const alice = await shop.visit(browser);
  await alice.at("signed-out").getByText("The chat is not available at the moment.").waitFor();
  assert.match(alice.complaints.join("\n"), /set its property `token`/);
  await alice.page.evaluate(async () => {
    document.querySelector("switchboard-chat").token = async () => (await fetch("/chat-token")).text();
  });
  await alice.at("composer").waitFor();
});

test("attributes and texts change while it runs, also a language that the chat does not have", async (t) => {
  const dutchTexts = {
    writeTo: "Bericht aan {name}",
    send: "Verstuur",
    newCount: { one: "{n} nieuw bericht", other: "{n} nieuwe berichten" },
  };
  const script = `${recordEventsScript()}
    chat.texts = { nl: ${JSON.stringify(dutchTexts)}, en: { writeTo: "Ask us anything" } };`;
  const shop = await openShop(t, { body: chatElement('conversation="@shop" sidebar="0" theme="light"'), script });
  await shop.writes("Hello.", { from: "bob" });
  const alice = await shop.visit(browser);
  const { page } = alice;
  const set = (name, value) =>
    page.evaluate(
      ([name, value]) => (value === null ? window.chat.removeAttribute(name) : window.chat.setAttribute(name, value)),
      [name, value],
    );
  await page.getByPlaceholder("Ask us anything").waitFor();
  await set("lang", "nl");
  await page.getByPlaceholder("Bericht aan shop").waitFor();
  await page.getByRole("button", { name: "Verstuur" }).waitFor();
  // What the page's language lacks is in English.
  await page.getByRole("log", { name: "Messages" }).waitFor();
  await set("lang", "de");
  await page.getByPlaceholder("Nachricht an shop").waitFor();
  await set("lang", "en");
  await set("hide", "emoji header");
  await page.getByRole("button", { name: "Emoji" }).waitFor({ state: "hidden" });
  await alice.at("room-title").waitFor({ state: "hidden" });
  await set("hide", null);
  await set("name", "Tea & Leaf");
  await set("mode", "single");
  await alice.at("room-title").getByText("Tea & Leaf").waitFor();
  await set("mode", null);
  await set("conversation", "@bob");
  await alice.at("room-title").getByText("bob", { exact: true }).waitFor();
  await waitForEvent(alice, "conversationchange", { conversation: "@alice:bob" });
  await set("sidebar", null);
  await set("conversation", null);
  await alice.conversation("@alice:bob").waitFor();
  await page.getByText("Tea & Leaf", { exact: true }).waitFor();
  assert.equal(await alice.at("composer").count(), 0);
  await set("theme", "dark");
  await page.waitForFunction(
    () => getComputedStyle(window.chat.shadowRoot.querySelector(".switchboard")).colorScheme === "dark",
  );
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("the page handles links, hears of messages, and can style parts", async (t) => {
  const shop = await openShop(t, {
    body: chatElement('mode="single" conversation="@shop"'),
    script: `${recordEventsScript()} chat.addEventListener("linkclick", (event) => event.preventDefault());`,
    style: "switchboard-chat::part(composer) { background: rgb(1, 2, 3); }",
  });
  const alice = await shop.visit(browser);
  // Messages from before the connection are no event.
  await waitForEvent(alice, "ready", { user: "alice" });
  await shop.writes("See https://shop.example/tea");
  const { detail } = await waitForEvent(alice, "message", { conversation: "@alice:shop" });
  assert.equal(detail.message.text, "See https://shop.example/tea");
  await alice.page.getByRole("link").click();
  await waitForEvent(alice, "linkclick", { href: "https://shop.example/tea" });
  assert.equal(alice.page.context().pages().length, 1);
  const background = await alice.page.evaluate(
    () => getComputedStyle(window.chat.shadowRoot.querySelector(".composer")).backgroundColor,
  );
  assert.equal(background, "rgb(1, 2, 3)");
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

/** Everything that the chat shows or has stored in the browser. */
const remainingData = (page) =>
  page.evaluate(async () => {
    const stored = [localStorage, sessionStorage].flatMap((storage) => Object.entries({ ...storage }));
    const databases = [];
    for (const { name, version } of await indexedDB.databases()) {
      const database = await new Promise((done) => {
        indexedDB.open(name, version).onsuccess = ({ target }) => done(target.result);
      });
      for (const store of database.objectStoreNames) {
        const all = database.transaction(store).objectStore(store).getAll();
        databases.push(...(await new Promise((done) => (all.onsuccess = () => done(all.result)))));
      }
      database.close();
    }
    const shown = document.querySelector("switchboard-chat")?.shadowRoot.textContent ?? document.body.textContent;
    return JSON.stringify([shown, stored, databases]);
  });

test("a user who is logged out everywhere leaves nothing in the element or the browser", async (t) => {
  const shop = await openShop(t, {
    body: chatElement('mode="single" conversation="@shop"'),
    script: recordEventsScript(),
  });
  await shop.writes("Your secret code is 1234.");
  const alice = await shop.visit(browser);
  await alice.sees("Your secret code is 1234.");
  await alice.at("composer").fill("my secret draft");
  await revokeUser(shop);
  await alice.at("signed-out").getByText("You are signed out.").waitFor();
  await waitForEvent(alice, "status", { state: "signed-out" });
  assert.doesNotMatch(await remainingData(alice.page), /secret/);
});

/** Logs alice out everywhere, as the shop's back end. */
async function revokeUser(shop) {
  const authorization = `Bearer ${await shop.server.createKey("shop", "--scope", "act,moderate")}`;
  await shop.server.posts("revoke", { user: "alice" }, { authorization });
}

test("signing out leaves nothing, and another token starts anew", async (t) => {
  const shop = await openShop(t, {
    body: chatElement('mode="single" conversation="@shop"'),
    script: recordEventsScript(),
  });
  await shop.writes("Your secret code is 1234.");
  const alice = await shop.visit(browser);
  await alice.sees("Your secret code is 1234.");
  await alice.at("composer").fill("my secret draft");
  await alice.page.evaluate(() => window.chat.signOut());
  await alice.at("signed-out").getByText("You are signed out.").waitFor();
  await shop.server.hasConnections(0);
  assert.doesNotMatch(await remainingData(alice.page), /secret/);
  shop.user = "bob";
  await alice.page.evaluate(() => (window.chat.token = async () => (await fetch("/chat-token")).text()));
  await waitForEvent(alice, "ready", { user: "bob" });
  await alice.at("composer").waitFor();
  assert.equal(await alice.at("message").count(), 0);
});

/** A script of the shop: gives the frame its token, and keeps what the frame reports in `window.events`. */
const framedChat = (url) => `
    const frame = document.querySelector("iframe");
    window.events = [];
    window.post = (type, more) => frame.contentWindow.postMessage({ type: "switchboard:" + type, ...more }, "${url}");
    addEventListener("message", async ({ source, origin, data }) => {
      if (source !== frame.contentWindow || origin !== "${url}") return;
      const { type, ...detail } = data;
      window.events.push({ type: type.replace("switchboard:", ""), detail });
      if (type === "switchboard:token-request")
        window.post("token", { token: await (await fetch("/chat-token")).text() });
    });
    frame.src = "${url}/embed?mode=single&conversation=" + encodeURIComponent("@shop");`;

test("a frame reports and obeys by messages; what is plainly seen is read, and hidden it is not", async (t) => {
  const shop = await openShop(t, {
    body: "<h1>Shop</h1><iframe title=Chat></iframe>",
    script: framedChat,
    style: "iframe { width: 400px; height: 500px; } iframe.hidden { display: none; }",
  });
  const alice = await shop.visit(browser);
  const { page } = alice;
  const frame = page.frameLocator("iframe");
  await waitForEvent(alice, "ready", { user: "alice" });
  await shop.writes("We have it in blue.");
  // Nobody has clicked into the frame.
  await shop.hasUnread("@alice:shop", 0);
  await page.evaluate(() => {
    window.events = [];
    document.querySelector("iframe").className = "hidden";
    return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  });
  await shop.writes("And in green.");
  await waitForEvent(alice, "unread", { count: 1, conversations: { "@alice:shop": 1 } });
  await shop.writes("And in red.");
  await waitForEvent(alice, "unread", { count: 2 });
  assert.equal(await shop.unread("@alice:shop"), 2);
  await page.evaluate(() => (document.querySelector("iframe").className = ""));
  await shop.hasUnread("@alice:shop", 0);

  await page.evaluate(() => {
    window.post("texts", { texts: { en: { writeTo: "Ask us" } } });
    window.post("send", { text: "Sent by the page" });
    window.post("compose", { text: "For alice to send" });
  });
  await waitForEvent(alice, "sent", { text: "Sent by the page" });
  await frame.getByPlaceholder("Ask us").waitFor();
  await page.waitForFunction(() => document.activeElement.localName === "iframe");
  assert.equal(await frame.getByTestId("composer").inputValue(), "For alice to send");
  await page.evaluate(() => window.post("links", { links: true }));
  await shop.writes("See https://shop.example/tea");
  await frame.getByRole("link").click();
  await waitForEvent(alice, "linkclick", { href: "https://shop.example/tea" });
  assert.equal(page.context().pages().length, 1);
  await page.evaluate(() => window.post("sign-out"));
  await frame.getByTestId("signed-out").getByText("You are signed out.").waitFor();
  await shop.server.hasConnections(0);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a frame of a user who is logged out everywhere shows nothing, and requests a token when the user asks for it", async (t) => {
  const shop = await openShop(t, { body: "<h1>Shop</h1><iframe title=Chat></iframe>", script: framedChat });
  await shop.writes("Your secret code is 1234.");
  const alice = await shop.visit(browser);
  const frame = alice.page.frameLocator("iframe");
  await frame.getByText("Your secret code is 1234.").first().waitFor();
  const countTokenRequests = () =>
    alice.page.evaluate(() => window.events.filter(({ type }) => type === "token-request").length);
  assert.equal(await countTokenRequests(), 1);
  await revokeUser(shop);
  await frame.getByTestId("signed-out").getByText("You are signed out.").waitFor();
  assert.equal(await frame.getByText("secret").count(), 0);
  assert.equal(await countTokenRequests(), 1);
  // The page's tokens do not say when they were made, so the server refuses them after the revocation.
  await frame.getByRole("button", { name: "Sign in" }).click();
  await alice.page.waitForFunction(() => window.events.filter(({ type }) => type === "token-request").length === 2);
  await frame.getByTestId("signed-out").getByText("You are signed out.").waitFor();
  assert.equal(await countTokenRequests(), 2);
});
