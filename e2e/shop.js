// A page of another origin that embeds the chat, under a content security policy without `unsafe`.

import { hostFiles } from "./host.js";
import { Person, Server } from "./support.js";

const SECRET = "a secret of the tests that is long enough";

/**
 * Starts a production server and a shop whose page has `body` and runs `script`, which a module script wraps. Both may be
 * functions of the server's URL. `files` are further files of the shop, `settings` further settings of the server.
 */
export async function openShop(t, { body, script = "", style = "", files = {}, settings = {} }) {
  const shop = {};
  const fillServerUrl = (text) => (typeof text === "function" ? text(shop.server.url) : text);
  const allFiles = {
    "/": [
      "text/html",
      () =>
        `<!doctype html><html lang=en><meta name=viewport content="width=device-width"><title>Shop</title>
        <link rel=stylesheet href=/shop.css>${fillServerUrl(body)}<script type=module src=/shop.js></script></html>`,
    ],
    "/shop.css": ["text/css", () => fillServerUrl(style)],
    "/shop.js": ["text/javascript", () => fillServerUrl(script)],
    "/chat-token": ["text/plain", () => shop.server.token(shop.user ?? "alice")],
    ...files,
  };
  const contentSecurityPolicy = () =>
    `default-src 'none'; script-src 'self' ${shop.server.url}; style-src 'self'; frame-src ${shop.server.url}; ` +
    `connect-src 'self' ${shop.server.url.replace("http", "ws")}`;
  shop.origin = await hostFiles(t, allFiles, contentSecurityPolicy);
  const env = { ...settings, SWITCHBOARD_AUTH_SECRET: SECRET, SWITCHBOARD_ALLOWED_ORIGINS: shop.origin };
  shop.server = await Server.start(t, { args: ["serve"], env });
  /** Opens the shop's page for a visitor. */
  shop.visit = (browser, options) => Person.open(t, browser, { url: shop.origin }, "alice", "/", options);
  /** How many messages of a conversation the server counts as unread for alice. */
  shop.unread = async (conversation) => {
    const { conversations } = await shop.server.asUser("alice", "conversations", {});
    return conversations.find((one) => one.conversation === conversation)?.unread ?? 0;
  };
  /** Waits until the server counts as many. */
  shop.hasUnread = async (conversation, wanted) => {
    while ((await shop.unread(conversation)) !== wanted);
  };
  /** Writes to alice, as a user of the shop. */
  shop.writes = (text, { from = "shop", ...more } = {}) =>
    shop.server.asUser(from, "send", { to: "@alice", text, ...more });
  return shop;
}

/** A script of the shop: gives the element its token, and keeps what the element reports in `window.events`. */
export const recordEventsScript = (name = "switchboard-chat") => `
  const chat = document.querySelector("${name}");
  window.chat = chat;
  window.events = [];
  for (const type of ["ready", "message", "sent", "open", "close", "conversationchange", "status", "error", "linkclick",
    "unread", "action"])
    chat.addEventListener(type, ({ detail }) => window.events.push({ type, detail }));
  chat.token = async () => (await fetch("/chat-token")).text();`;

/** Waits for an event with these details, and returns it. */
export async function waitForEvent(person, type, wanted = {}) {
  const found = await person.page.waitForFunction(
    ([type, wanted]) =>
      window.events.find(
        (event) =>
          event.type === type &&
          Object.entries(wanted).every(([name, value]) => JSON.stringify(event.detail[name]) === JSON.stringify(value)),
      ),
    [type, wanted],
  );
  return found.jsonValue();
}
