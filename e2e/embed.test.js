// Tests the chat in another site's page, as a frame and as an element, under a content security policy without `unsafe`.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { hostFiles } from "./host.js";
import { unexpectedConsoleMessages, launchBrowser, Person, Server } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const SECRET = "a secret of the tests that is long enough";

/** Starts a production server that accepts connections from pages of `origin`. */
const startServer = (t, origin) =>
  Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET, SWITCHBOARD_ALLOWED_ORIGINS: origin } });

test("an element: a token from the page, its own styles, nothing inline", async (t) => {
  let server;
  const pageScript = () => `
    const chat = document.querySelector("switchboard-chat");
    chat.token = async () => (await fetch("/chat-token")).text();
    chat.addEventListener("unread", ({ detail }) => (document.title = String(detail.count)));`;
  const pageFiles = {
    "/": [
      "text/html",
      () => `<!doctype html><html lang=en><title>Shop</title><link rel=stylesheet href=/shop.css>
      <script type=module src="${server.url}/switchboard-chat.js"></script>
      <switchboard-chat server="${server.url}" conversation="@shop" sidebar="0" theme="light"></switchboard-chat>
      <script type=module src=/shop.js></script>`,
    ],
    "/shop.css": [
      "text/css",
      "switchboard-chat { --switchboard-accent: rgb(180, 0, 90); width: 360px; height: 520px; }",
    ],
    "/shop.js": ["text/javascript", pageScript],
    "/chat-token": ["text/plain", () => server.token("alice")],
  };
  const contentSecurityPolicy = () =>
    `default-src 'none'; script-src 'self' ${server.url}; style-src 'self'; ` +
    `connect-src 'self' ${server.url.replace("http", "ws")}`;
  const origin = await hostFiles(t, pageFiles, contentSecurityPolicy);
  server = await startServer(t, origin);
  const alice = await Person.open(t, browser, { url: origin }, "alice", "/");
  await alice.at("composer").waitFor();
  await alice.says("Do you have it in blue?");
  await alice.sees("Do you have it in blue?");
  const [answer] = await server.asUser("shop", "history", { conversation: "@alice" }).then((page) => page.messages);
  assert.equal(answer.text, "Do you have it in blue?");
  await server.asUser("shop", "send", { to: "@alice", text: "We do." });
  await alice.sees("We do.");
  await alice.at("composer").fill("x");
  await alice.page.waitForFunction(() => {
    const sendButton = document.querySelector("switchboard-chat").shadowRoot.querySelector("[data-testid=send]");
    return getComputedStyle(sendButton).backgroundColor === "rgb(180, 0, 90)";
  });
  await alice.page.evaluate(() => document.querySelector("switchboard-chat").setAttribute("theme", "dark"));
  await alice.page.waitForFunction(() => {
    const sendButton = document.querySelector("switchboard-chat").shadowRoot.querySelector("[data-testid=send]");
    // White in OKLCH, because the site's accent is dark in both themes.
    return getComputedStyle(sendButton).color.startsWith("oklch(1 0 ");
  });
  // Removing the element closes its connection.
  await alice.page.evaluate(() => document.querySelector("switchboard-chat").remove());
  await server.hasConnections(0);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a frame requests a token from its page, and other origins may not frame it", async (t) => {
  let server;
  const pageScript = () => `
    const frame = document.querySelector("iframe");
    addEventListener("message", async ({ source, origin, data }) => {
      if (source !== frame.contentWindow || origin !== "${server.url}") return;
      if (data.type === "switchboard:unread") document.title = String(data.count);
      if (data.type !== "switchboard:token-request") return;
      source.postMessage({ type: "switchboard:token", token: await (await fetch("/chat-token")).text() }, origin);
    });
    frame.src = "${server.url}/embed?conversation=" + encodeURIComponent("@shop") + "&sidebar=0&lang=de";`;
  const pageFiles = {
    "/": [
      "text/html",
      "<!doctype html><html lang=en><title>Shop</title><iframe title=Chat width=400 height=600></iframe><script type=module src=/shop.js></script>",
    ],
    "/shop.js": ["text/javascript", pageScript],
    "/chat-token": ["text/plain", () => server.token("alice")],
    "/other": [
      "text/html",
      () => `<!doctype html><title>Other</title><iframe title=Chat src="${server.url}/embed"></iframe>`,
    ],
  };
  const contentSecurityPolicy = () =>
    `default-src 'none'; script-src 'self'; connect-src 'self'; frame-src ${server.url}`;
  const origin = await hostFiles(t, pageFiles, contentSecurityPolicy);
  server = await startServer(t, origin);
  const alice = await Person.open(t, browser, { url: origin }, "alice", "/");
  const frame = alice.page.frameLocator("iframe");
  await frame.getByTestId("composer").fill("Haben Sie das in Blau?");
  await frame.getByTestId("composer").press("Enter");
  await frame.locator("[data-testid=message][data-seq]").filter({ hasText: "in Blau?" }).waitFor();
  assert.equal(await frame.locator("[lang]").first().getAttribute("lang"), "de");
  await server.asUser("shop", "send", { to: "@alice", text: "Ja." });
  await frame.locator("[data-testid=message][data-seq]").filter({ hasText: "Ja." }).waitFor();
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);

  const foreignOrigin = await hostFiles(t, pageFiles, contentSecurityPolicy);
  const eve = await Person.open(t, browser, { url: foreignOrigin }, "eve", "/other");
  await eve.page.waitForLoadState("load");
  assert.ok(
    eve.complaints.some((text) => /frame-ancestors/.test(text)),
    eve.complaints.join("\n"),
  );
  assert.equal(await eve.page.frameLocator("iframe").getByTestId("composer").count(), 0);
});

test("the SDK as a plain script", async (t) => {
  let server;
  const pageScript = () => `
    const chat = Switchboard.connect("${server.url}", { user: "alice" });
    const room = chat.conversation("#general");
    room.messages.subscribe((list) => (document.querySelector("ol").replaceChildren(...list.map(({ text }) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }))));
    room.send("from a plain script");`;
  const pageFiles = {
    "/": [
      "text/html",
      () =>
        `<!doctype html><html lang=en><title>x</title><ol></ol><script src="${server.url}/switchboard.js"></script><script src=/page.js></script>`,
    ],
    "/page.js": ["text/javascript", pageScript],
  };
  const origin = await hostFiles(t, pageFiles);
  server = await Server.start(t, { env: { SWITCHBOARD_ALLOWED_ORIGINS: origin } });
  const alice = await Person.open(t, browser, { url: origin }, "alice", "/");
  await alice.page.getByText("from a plain script").waitFor();
  // The user's own message is shown at once; earlier ones come from the server.
  await alice.page.locator("li").nth(3).waitFor();
  assert.equal(await alice.page.locator("li").count(), 4);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});
