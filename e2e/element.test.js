// Tests what a page can do with the element: what it reports, what it obeys, and what the page cannot break.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { recordEventsScript, openShop, waitForEvent } from "./shop.js";
import { unexpectedConsoleMessages, launchBrowser } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const chatElement = (attributes) => (url) =>
  `<script type=module src="${url}/switchboard-chat.js"></script><switchboard-chat ${attributes}></switchboard-chat>`;
const SINGLE_CONVERSATION = 'mode="single" conversation="@shop"';

test("a hidden element counts messages and reads none; a visible one reads them", async (t) => {
  const shop = await openShop(t, { body: chatElement(`${SINGLE_CONVERSATION} hidden`), script: recordEventsScript() });
  const alice = await shop.visit(browser);
  await waitForEvent(alice, "ready", { user: "alice" });
  await shop.writes("We have it in blue.");
  await waitForEvent(alice, "unread", { count: 1, conversations: { "@alice:shop": 1 } });
  await shop.writes("And in green.");
  await waitForEvent(alice, "unread", { count: 2 });
  // A message in another conversation does not count, and is not reported.
  await shop.writes("Psst.", { from: "mallory" });
  await shop.writes("And in red.");
  await waitForEvent(alice, "unread", { count: 3, conversations: { "@alice:shop": 3 } });
  assert.equal(await shop.unread("@alice:shop"), 3);
  await alice.page.evaluate(() => window.chat.open());
  await shop.hasUnread("@alice:shop", 0);
  await waitForEvent(alice, "unread", { count: 0 });
  assert.equal(await shop.unread("@alice:mallory"), 1);
  // Other ways to hide it: out of view, without opacity, behind a closed parent.
  for (const [hide, show] of [
    [() => (window.chat.style.opacity = "0"), () => (window.chat.style.opacity = "")],
    [() => (window.chat.style.marginLeft = "-9999px"), () => (window.chat.style.marginLeft = "")],
    [() => (document.body.style.visibility = "hidden"), () => (document.body.style.visibility = "")],
  ]) {
    await alice.page.evaluate(hide);
    await alice.page.evaluate(() => {
      window.events = [];
      // Two frames, after which the browser has reported what is in view.
      return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    });
    await shop.writes("Are you there?");
    await waitForEvent(alice, "unread", { count: 1 });
    assert.equal(await shop.unread("@alice:shop"), 1, String(hide));
    await alice.page.evaluate(show);
    await shop.hasUnread("@alice:shop", 0);
  }
  const from = (await alice.page.evaluate(() => window.events)).filter(({ type }) => type === "message");
  assert.ok(from.every(({ detail }) => detail.conversation === "@alice:shop"));
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("ten renders in React's StrictMode with a new token function each make one connection", async (t) => {
  const source = `
    import { StrictMode, useState } from "react";
    import { createRoot } from "react-dom/client";
    function App() {
      const [render, setRender] = useState(1);
      window.renders = render;
      const token = async () => {
        window.calls = (window.calls ?? 0) + 1;
        return (await fetch("/chat-token")).text();
      };
      return <><button onClick={() => setRender(render + 1)}>again</button>
        <switchboard-chat mode="single" conversation="@shop" token={token} /></>;
    }
    createRoot(document.getElementById("root")).render(<StrictMode><App /></StrictMode>);`;
  const bundled = await build({
    stdin: {
      contents: source,
      loader: "jsx",
      resolveDir: fileURLToPath(new URL("../examples/react", import.meta.url)),
    },
    bundle: true,
    write: false,
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' },
    logLevel: "silent",
  });
  const shop = await openShop(t, {
    body: (url) =>
      `<div id=root></div><script src=/count.js></script><script type=module src="${url}/switchboard-chat.js"></script>`,
    files: {
      "/shop.js": ["text/javascript", bundled.outputFiles[0].text],
      "/count.js": [
        "text/javascript",
        `window.sockets = 0;
        window.WebSocket = class extends WebSocket {
          constructor(...options) {
            super(...options);
            window.sockets++;
          }
        };`,
      ],
    },
  });
  const alice = await shop.visit(browser);
  await alice.is("online");
  await alice.at("composer").fill("half a sentence");
  for (let render = 2; render <= 11; render++) {
    await alice.page.getByText("again").click();
    await alice.page.waitForFunction((render) => window.renders === render, render);
  }
  await shop.writes("Still here?");
  await alice.sees("Still here?");
  assert.equal(await alice.at("composer").inputValue(), "half a sentence");
  assert.deepEqual(await alice.page.evaluate(() => [window.sockets, window.calls]), [1, 1]);
});

/** Boxes, relative to the element, and styles of everything in it. */
const appearance = () => {
  const host = document.querySelector("switchboard-chat");
  const origin = host.getBoundingClientRect();
  const names = ["color", "backgroundColor", "fontSize", "fontWeight", "letterSpacing", "textTransform", "wordSpacing"];
  names.push("textIndent", "lineHeight", "margin", "padding", "textAlign", "whiteSpace", "fontFamily", "cursor");
  return [...host.shadowRoot.querySelectorAll(".switchboard, .switchboard *")].map((node) => {
    // What is not drawn has no position of its own.
    const box = node.checkVisibility() ? node.getBoundingClientRect() : origin;
    const style = getComputedStyle(node);
    return [
      `${node.localName}.${node.getAttribute("class") ?? ""}`,
      [box.x - origin.x, box.y - origin.y, box.width, box.height].map((n) => Math.round(n * 10) / 10).join(" "),
      ...names.map((name) => `${name}: ${style[name]}`),
    ];
  });
};

const ELEMENT_SIZE = "switchboard-chat { inline-size: 420px; block-size: 560px; }";
const HOSTILE_STYLES = {
  "a page for which 1 rem is 10 px": "html { font-size: 62.5%; } body { font-size: 1.6rem; line-height: 3; }",
  "a hostile style sheet": `html { font: italic 700 31px/2.4 serif; }
    body { color: red; letter-spacing: 4px; text-transform: uppercase; word-spacing: 9px; text-indent: 20px;
      white-space: pre; text-align: right; cursor: crosshair; line-break: anywhere; tab-size: 2; }
    * { margin: 11px; padding: 7px; box-sizing: content-box; letter-spacing: 2px; font-size: 9px; color: lime;
      line-height: 3; text-shadow: 0 0 3px red; }
    button, input, textarea, p, h2, svg { all: unset; border: 5px solid red !important; }`,
  "a shop's theme": `:root { --font-body-scale: 1; --color-background: 18, 18, 18; }
    *, *::before, *::after { box-sizing: inherit; }
    html { box-sizing: border-box; font-size: calc(var(--font-body-scale) * 62.5%); height: 100%; }
    body { display: grid; grid-template-columns: 100%; grid-template-rows: auto 1fr; min-height: 100%; margin: 0;
      font-size: 1.5rem; letter-spacing: 0.06rem; line-height: calc(1 + 0.8 / var(--font-body-scale));
      color: rgb(var(--color-background)); }
    a:empty, ul:empty, dl:empty, div:empty, section:empty, article:empty, p:empty, h1:empty, h2:empty { display: none; }
    switchboard-chat { justify-self: start; }`,
};

for (const [name, style] of Object.entries(HOSTILE_STYLES)) {
  test(`geometry and colours are those of a plain page on ${name}`, async (t) => {
    const looks = [];
    const shop = await openShop(t, {
      body: chatElement(`${SINGLE_CONVERSATION} theme="light"`),
      script: recordEventsScript(),
      style: () => ELEMENT_SIZE + (looks.length ? style : ""),
    });
    // Presence is shown once both have written.
    await shop.server.asUser("alice", "send", { to: "@shop", text: "Which colours?" });
    await shop.writes("We have it in **blue**:\n- cotton\n- wool\n\n`code` and https://shop.example/blue");
    for (let visit = 0; visit < 2; visit++) {
      const alice = await shop.visit(browser);
      await alice.page.locator("article").getByText("cotton").waitFor();
      await shop.hasUnread("@alice:shop", 0);
      await alice.page.locator("[data-state=online]").first().waitFor({ state: "attached" });
      await alice.page.mouse.move(0, 0);
      await alice.page.evaluate(() => document.fonts.ready);
      // The line above what was unread, and the badge, are gone on the second visit.
      if (visit === 0) await alice.page.reload();
      await alice.page.locator("article").getByText("cotton").waitFor();
      await alice.page.getByTestId("presence").getByText(/./).waitFor();
      looks.push(await alice.page.evaluate(appearance));
    }
    assert.ok(looks[0].length > 40);
    assert.deepEqual(looks[1], looks[0]);
  });
}
