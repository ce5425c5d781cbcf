// Tests of the Vue bindings: refs that follow a readable, rendering on a server, and hydration.

import assert from "node:assert/strict";
import { test } from "node:test";
import { consoleErrors, addContainer, serverWithConnectionCount, scrollIntoView } from "./dom.js";
import { createApp, createSSRApp, effectScope, h, nextTick, shallowRef } from "vue";
import { renderToString } from "vue/server-renderer";
import { connect } from "@switchboard/client";
import {
  chatKey,
  provideChat,
  useChat,
  useConversation,
  useMarkRead,
  useMessages,
  useValue,
} from "@switchboard/client/vue";
import { untilTexts, until } from "./support.js";

/** The values of the last render of the components. */
let seen;
const id = shallowRef("#team");

const Room = {
  setup() {
    const chat = useChat();
    const status = useValue(chat.status);
    const room = useMessages(id);
    const conversationEnd = shallowRef();
    useMarkRead(room.conversation, conversationEnd);
    seen = { chat, status, ...room };
    return () => [
      h(
        "ul",
        room.messages.value.map(({ id, text }) => h("li", { key: id }, text)),
      ),
      h("div", { ref: conversationEnd }),
    ];
  },
};
const appOptions = (...chat) => ({
  setup() {
    provideChat(...chat);
    return () => h(Room);
  },
});
const listedTexts = (element) => [...element.querySelectorAll("li")].map((li) => li.textContent);

test("a component connects while it is mounted, and its values follow another id", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const errors = consoleErrors(t);
  const element = addContainer();
  id.value = "#team";
  const vue = createApp(appOptions(server.url, options));
  vue.mount(element);
  await until(seen.conversation.value.messages, (list) => list.length === 1);
  await nextTick();
  assert.deepEqual(
    [listedTexts(element), seen.state.value, seen.status.value.state],
    [["hi from team"], "ready", "online"],
  );
  id.value = "#other";
  await until(seen.conversation.value.messages, (list) => list.length === 1);
  await nextTick();
  assert.deepEqual(listedTexts(element), ["hi from other"]);
  await seen.send("here").acked;
  assert.equal(server.history("#other").at(-1).text, "here");
  const unreadCountOf = (id) => seen.chat.conversation(id).info.getSnapshot().unread;
  assert.deepEqual([unreadCountOf("#team"), unreadCountOf("#other")], [1, 1]);
  scrollIntoView(true);
  assert.deepEqual([unreadCountOf("#team"), unreadCountOf("#other")], [1, 0]);
  vue.unmount();
  assert.equal(seen.chat.status.getSnapshot().state, "idle");
  await nextTick();
  assert.deepEqual([counts.opened, server.connections, errors], [1, [], []]);
});

test("a server that renders connects nowhere", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const { document } = globalThis;
  delete globalThis.document;
  t.after(() => (globalThis.document = document));
  id.value = "#team";
  const html = await renderToString(createSSRApp(appOptions(server.url, options)));
  assert.match(html, /<ul><\/ul>/);
  // A chat of the app connects when it is used; rendering does not count as a use.
  const chat = connect(server.url, options);
  await renderToString(createSSRApp(appOptions(chat)));
  await new Promise((done) => setImmediate(done));
  assert.equal(counts.opened, 0);
});

test("hydration finds what the server has rendered, though the data is there before it", async (t) => {
  const { server, options } = serverWithConnectionCount();
  id.value = "#team";
  const html = await renderToString(createSSRApp(appOptions(server.url, options)));
  const chat = connect(server.url, options);
  t.after(() => chat.close());
  await untilTexts(chat.conversation("#team"), ["hi from team"]);
  const errors = consoleErrors(t);
  const element = addContainer(html);
  const vue = createSSRApp(appOptions(chat));
  vue.mount(element);
  await nextTick();
  assert.deepEqual([errors, listedTexts(element)], [[], ["hi from team"]]);
  vue.unmount();
  assert.equal(chat.status.getSnapshot().state, "online", "a chat of the app's own is the app's to close");
});

test("outside of components, a value lives as long as its effect scope", async (t) => {
  const { server, options } = serverWithConnectionCount();
  const chat = connect(server.url, options);
  t.after(() => chat.close());
  const room = shallowRef(chat.conversation("#team"));
  const scope = effectScope();
  const messages = scope.run(() => useValue(() => room.value.messages));
  await untilTexts(room.value, ["hi from team"]);
  assert.equal(messages.value.length, 1);
  room.value = chat.conversation("#other");
  await untilTexts(room.value, ["hi from other"]);
  assert.deepEqual(
    messages.value.map(({ text }) => text),
    ["hi from other"],
  );
  scope.stop();
  await room.value.send("unheard").acked;
  assert.equal(messages.value.length, 1);
});

test("an app provides its chat for all of its components, and a missing one is told", (t) => {
  const { server, options } = serverWithConnectionCount();
  const chat = connect(server.url, { ...options, start: false });
  let got;
  const componentUsingConversation = { setup: () => ((got = useConversation("#team").value), () => null) };
  const vue = createApp(componentUsingConversation);
  vue.provide(chatKey, chat).mount(addContainer());
  assert.equal(got, chat.conversation("#team"));
  vue.unmount();
  consoleErrors(t);
  assert.throws(
    () => createApp(componentUsingConversation).mount(addContainer()),
    /no component above has called provideChat/,
  );
});
