// Tests of the Vue bindings: refs that follow a readable, rendering on a server, and hydration.

import assert from "node:assert/strict";
import { test } from "node:test";
import { consoleErrors, container, serverWithConnectionCount, scrollIntoView } from "./dom.js";
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
    const end = shallowRef();
    useMarkRead(room.conversation, end);
    seen = { chat, status, ...room };
    return () => [
      h(
        "ul",
        room.messages.value.map(({ id, text }) => h("li", { key: id }, text)),
      ),
      h("div", { ref: end }),
    ];
  },
};
const app = (...chat) => ({
  setup() {
    provideChat(...chat);
    return () => h(Room);
  },
});
const texts = (element) => [...element.querySelectorAll("li")].map((li) => li.textContent);

test("a component connects while it is mounted, and its values follow another id", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const errors = consoleErrors(t);
  const element = container();
  id.value = "#team";
  const vue = createApp(app(server.url, options));
  vue.mount(element);
  await until(seen.conversation.value.messages, (list) => list.length === 1);
  await nextTick();
  assert.deepEqual([texts(element), seen.state.value, seen.status.value.state], [["hi from team"], "ready", "online"]);
  id.value = "#other";
  await until(seen.conversation.value.messages, (list) => list.length === 1);
  await nextTick();
  assert.deepEqual(texts(element), ["hi from other"]);
  await seen.send("here").acked;
  assert.equal(server.history("#other").at(-1).text, "here");
  const unread = (id) => seen.chat.conversation(id).info.getSnapshot().unread;
  assert.deepEqual([unread("#team"), unread("#other")], [1, 1]);
  scrollIntoView(true);
  assert.deepEqual([unread("#team"), unread("#other")], [1, 0]);
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
  const html = await renderToString(createSSRApp(app(server.url, options)));
  assert.match(html, /<ul><\/ul>/);
  // A chat of the app connects when it is used; rendering does not count as a use.
  const chat = connect(server.url, options);
  await renderToString(createSSRApp(app(chat)));
  await new Promise((done) => setImmediate(done));
  assert.equal(counts.opened, 0);
});

test("hydration finds what the server has rendered, though the data is there before it", async (t) => {
  const { server, options } = serverWithConnectionCount();
  id.value = "#team";
  const html = await renderToString(createSSRApp(app(server.url, options)));
  const chat = connect(server.url, options);
  t.after(() => chat.close());
  await untilTexts(chat.conversation("#team"), ["hi from team"]);
  const errors = consoleErrors(t);
  const element = container(html);
  const vue = createSSRApp(app(chat));
  vue.mount(element);
  await nextTick();
  assert.deepEqual([errors, texts(element)], [[], ["hi from team"]]);
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
  const component = { setup: () => ((got = useConversation("#team").value), () => null) };
  const vue = createApp(component);
  vue.provide(chatKey, chat).mount(container());
  assert.equal(got, chat.conversation("#team"));
  vue.unmount();
  consoleErrors(t);
  assert.throws(() => createApp(component).mount(container()), /no component above has called provideChat/);
});
