// Tests of the React hooks: in strict mode, with rendering on a server, and with hydration.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  runInAct,
  consoleErrors,
  addContainer,
  serverWithConnectionCount,
  scrollIntoView,
  setPageVisible,
} from "./dom.js";
import { Activity, createElement as h, StrictMode } from "react";
import { flushSync } from "react-dom";
import { createRoot, hydrateRoot } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { connect } from "@switchboard/client";
import { ChatProvider, useChat, useConversation, useMarkRead, useMessages, useValue } from "@switchboard/client/react";
import { untilTexts, until } from "./support.js";

/** The values of the last render of the components. */
let seen;

function Room({ id = "#team" }) {
  const chat = useChat();
  const status = useValue(chat.status);
  const room = useMessages(id);
  seen = { chat, status, ...room };
  return h(
    "ul",
    null,
    room.messages.map(({ id, text }) => h("li", { key: id }, text)),
  );
}

const listedTexts = (element) => [...element.querySelectorAll("li")].map((li) => li.textContent);

/** Renders into a page, which is unmounted and disconnected after the test. */
function mountPage(t) {
  const element = addContainer();
  const root = createRoot(element);
  t.after(() => {
    flushSync(() => root.unmount());
    seen.chat.close();
  });
  return { element, root, render: (node) => flushSync(() => root.render(node)) };
}

/** Waits until a store has the wanted value and React has rendered it, which happens in a microtask. */
async function untilRendered(store, wanted) {
  await until(store, wanted);
  await new Promise((done) => setImmediate(done));
}

test("in strict mode, with a new token function in each of ten renders, there is one connection", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const { user, ...others } = options;
  const token = `x.${btoa(JSON.stringify({ sub: user }))}.x`;
  const errors = consoleErrors(t);
  const { element, render } = mountPage(t);
  for (let n = 0; n < 10; n++) {
    const provider = h(ChatProvider, { url: server.url, ...others, token: async () => token }, h(Room));
    render(h(StrictMode, null, provider));
  }
  await untilRendered(seen.conversation.messages, (list) => list.length === 1);
  assert.deepEqual(listedTexts(element), ["hi from team"]);
  assert.deepEqual([counts.opened, server.connections], [1, ["alice"]]);
  await seen.send("hello").acked;
  await untilRendered(seen.conversation.messages, (list) => list.length === 2);
  assert.deepEqual(listedTexts(element), ["hi from team", "hello"]);
  assert.deepEqual(errors, []);
});

test("a server that renders connects nowhere", async () => {
  const { server, counts, options } = serverWithConnectionCount();
  const provider = h(ChatProvider, { url: server.url, ...options }, h(Room));
  assert.equal(renderToString(provider), "<ul></ul>");
  // Waits until the microtasks have run, because an unwanted connection would be opened in one of them.
  await new Promise((done) => setImmediate(done));
  assert.deepEqual([counts.opened, seen.state, seen.status.state], [0, "loading", "idle"]);
});

test("hydration finds what the server has rendered, though the data is there before it", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const chat = connect(server.url, options);
  t.after(() => chat.close());
  await untilTexts(chat.conversation("#team"), ["hi from team"]);
  const appWith = (value) => h(StrictMode, null, h(ChatProvider, { chat: value }, h(Room)));
  const html = renderToString(appWith(connect(server.url, { ...options, start: false })));
  const errors = consoleErrors(t);
  const element = addContainer(html);
  const root = await runInAct(() =>
    hydrateRoot(element, appWith(chat), { onRecoverableError: (e) => errors.push(String(e)) }),
  );
  assert.deepEqual(errors, []);
  assert.deepEqual(listedTexts(element), ["hi from team"]);
  await runInAct(() => root.unmount());
  assert.equal(chat.status.getSnapshot().state, "online", "a chat of the app's own is the app's to close");
  assert.equal(counts.opened, 1);
});

test("the provider disconnects after it was unmounted, but not between two mounts", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const { render } = mountPage(t);
  const appInMode = (mode) => h(Activity, { mode }, h(ChatProvider, { url: server.url, ...options }, h(Room)));
  render(appInMode("visible"));
  const firstChat = seen.chat;
  await untilRendered(firstChat.status, ({ state }) => state === "online");
  // Hiding and showing the tree ends its effects and runs them again, as strict mode and a hot reload do.
  render(appInMode("hidden"));
  render(appInMode("visible"));
  assert.deepEqual([seen.chat === firstChat, counts.opened], [true, 1]);
  render(appInMode("hidden"));
  await untilRendered(firstChat.status, ({ state }) => state === "idle");
  assert.deepEqual(server.connections, []);
  // A closed chat cannot be used again, so the components get another one.
  render(appInMode("visible"));
  assert.notEqual(seen.chat, firstChat);
  await untilRendered(seen.chat.status, ({ state }) => state === "online");
  await untilRendered(seen.conversation.messages, (list) => list.length === 1);
  assert.equal(counts.opened, 2);
});

test("another user is another connection, with nothing of the first one's", async (t) => {
  const { server, options } = serverWithConnectionCount();
  server.command("bob", "send", { to: "@bob", text: "to myself" });
  const { element, render } = mountPage(t);
  const appInMode = (user, id) => h(ChatProvider, { url: server.url, ...options, user }, h(Room, { id }));
  render(appInMode("alice", "#team"));
  await untilRendered(seen.conversation.messages, (list) => list.length === 1);
  const firstChat = seen.chat;
  render(appInMode("bob", "@bob"));
  assert.ok(!listedTexts(element).includes("hi from team"));
  await untilRendered(seen.conversation.messages, (list) => list.length === 1);
  assert.deepEqual(listedTexts(element), ["to myself"]);
  await untilRendered(firstChat.status, ({ state }) => state === "idle");
  assert.deepEqual(server.connections, ["bob"]);
});

test("`useMessages` follows another id, and its functions stay the same while the id does", async (t) => {
  const { server, options } = serverWithConnectionCount();
  const { element, render } = mountPage(t);
  const appInMode = (id) => h(ChatProvider, { url: server.url, ...options }, h(Room, { id }));
  render(appInMode("#team"));
  await untilRendered(seen.conversation.messages, (list) => list.length === 1);
  const { send } = seen;
  render(appInMode("#team"));
  assert.equal(seen.send, send);
  render(appInMode("#other"));
  await untilRendered(seen.conversation.messages, (list) => list.length === 1);
  assert.deepEqual(listedTexts(element), ["hi from other"]);
  await seen.send("here").acked;
  assert.equal(server.history("#other").at(-1).text, "here");
});

test("`useMarkRead` marks as read what a person can see, and nothing else", async (t) => {
  const { server, options } = serverWithConnectionCount();
  const { render } = mountPage(t);
  function RoomEnd() {
    const conversation = useConversation("#team");
    seen = { chat: useChat(), conversation };
    return h("div", { ref: useMarkRead(conversation) });
  }
  setPageVisible(false);
  t.after(() => setPageVisible(true));
  render(h(StrictMode, null, h(ChatProvider, { url: server.url, ...options }, h(RoomEnd))));
  const { info, messages } = seen.conversation;
  await untilRendered(info, (now) => now?.unread === 1);
  await untilRendered(messages, (list) => list.length === 1);
  scrollIntoView(true);
  assert.equal(info.getSnapshot().unread, 1, "the page is not in front");
  scrollIntoView(false);
  setPageVisible(true);
  assert.equal(info.getSnapshot().unread, 1, "the end is not in view");
  scrollIntoView(true);
  await untilRendered(info, (now) => now.unread === 0);
  server.command("bob", "send", { to: "#team", text: "the end stays in view" });
  await untilRendered(info, (now) => now.head === 3 && now.unread === 0);
});

test("a hook without a provider says what is missing", (t) => {
  consoleErrors(t);
  assert.throws(() => renderToString(h(Room)), /no <ChatProvider> above/);
});
