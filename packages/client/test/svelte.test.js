// Svelte: a component compiled for the server and for a page.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { compile } from "svelte/compiler";
import { connect } from "@switchboard/client";
import { consoleErrors, addContainer, serverWithConnectionCount, scrollIntoView } from "./dom.js";
import { until } from "./support.js";

const here = fileURLToPath(new URL(".", import.meta.url));

/** Bundles the component and the code that runs it. `generate` is `client` or `server`. */
async function bundleFixture(t, generate, entryCode) {
  const svelte = {
    name: "svelte",
    setup({ onLoad }) {
      onLoad({ filter: /\.svelte$/ }, async ({ path }) => {
        const { js } = compile(await readFile(path, "utf8"), { generate, runes: true, filename: path });
        return { contents: js.code };
      });
    },
  };
  const { outputFiles } = await build({
    stdin: { contents: `export { default as Room } from "./fixtures/Room.svelte"; ${entryCode}`, resolveDir: here },
    bundle: true,
    write: false,
    format: "esm",
    platform: generate === "client" ? "browser" : "node",
    conditions: generate === "client" ? ["browser"] : [],
    // Node's entry point loads this file if there is no WebSocket; these tests pass their own WebSocket.
    external: ["./ws.cjs"],
    logLevel: "error",
    plugins: [svelte],
  });
  const directory = await mkdtemp(join(tmpdir(), "switchboard-svelte-"));
  t.after(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, "bundle.mjs"), outputFiles[0].contents);
  return import(join(directory, "bundle.mjs"));
}

const listedTexts = (element) => [...element.querySelectorAll("li")].map((li) => li.textContent);

test("a server that renders connects nowhere; hydration shows the data", async (t) => {
  const { server, counts, options } = serverWithConnectionCount();
  const onServer = await bundleFixture(t, "server", 'export { render } from "svelte/server"');
  const props = { url: server.url, options, id: "#team", report: () => {} };
  const { body } = onServer.render(onServer.Room, { props });
  assert.match(body, /idle loading 0/);
  await new Promise((done) => setImmediate(done));
  assert.equal(counts.opened, 0);

  const { Room, hydrate, unmount } = await bundleFixture(t, "client", 'export { hydrate, unmount } from "svelte"');
  const errors = consoleErrors(t);
  const element = addContainer(body);
  let seenContext;
  const component = hydrate(Room, {
    target: element,
    props: { ...props, report: (roomContext) => (seenContext = roomContext) },
  });
  await until(seenContext.room.conversation.messages, (list) => list.length === 1);
  await new Promise((done) => setImmediate(done));
  assert.deepEqual(listedTexts(element), ["hi from team"]);
  assert.match(element.textContent, /online ready 1/);
  assert.deepEqual(errors, []);
  assert.equal(counts.opened, 1);
  await unmount(component);
  assert.equal(seenContext.chat.status.getSnapshot().state, "idle");
  assert.deepEqual(server.connections, []);
});

test("`value` and `useMessages` follow another id; `markRead` waits until the end is seen", async (t) => {
  const { server, options } = serverWithConnectionCount();
  const { App, mount, unmount, flushSync } = await bundleFixture(
    t,
    "client",
    'export { mount, unmount, flushSync } from "svelte"; export { default as App } from "./fixtures/App.svelte"',
  );
  const element = addContainer();
  const seen = {};
  const props = { url: server.url, options, report: (roomContext) => Object.assign(seen, roomContext) };
  const component = mount(App, { target: element, props });
  t.after(() => unmount(component));
  const openRoomAndExpectText = async (id, text) => {
    await until(seen.chat.conversation(id).messages, (list) => list.length === 1);
    await new Promise((done) => setImmediate(done));
    assert.deepEqual([listedTexts(element), element.querySelector("p").textContent], [[text], "online ready 1"]);
  };
  flushSync();
  assert.equal(seen.used, seen.chat);
  await openRoomAndExpectText("#team", "hi from team");
  seen.setId("#other");
  flushSync();
  await openRoomAndExpectText("#other", "hi from other");
  await seen.room.send("here").acked;
  assert.equal(server.history("#other").at(-1).text, "here");
  const unreadCountOf = (id) => seen.chat.conversation(id).info.getSnapshot().unread;
  assert.deepEqual([unreadCountOf("#team"), unreadCountOf("#other")], [1, 1]);
  scrollIntoView(true);
  assert.deepEqual([unreadCountOf("#team"), unreadCountOf("#other")], [1, 0]);
});

test("hydration shows the data that is there before it, without a warning", async (t) => {
  const { server, options } = serverWithConnectionCount();
  const onServer = await bundleFixture(t, "server", 'export { render } from "svelte/server"');
  const props = { url: server.url, options, id: "#team", report: () => {} };
  const { body } = onServer.render(onServer.Room, { props });
  const chat = connect(server.url, options);
  t.after(() => chat.close());
  await until(chat.conversation("#team").messages, (list) => list.length === 1);
  const { Room, hydrate, flushSync } = await bundleFixture(t, "client", 'export { hydrate, flushSync } from "svelte"');
  const errors = consoleErrors(t);
  const element = addContainer(body);
  hydrate(Room, { target: element, props: { ...props, url: chat } });
  flushSync();
  assert.deepEqual(
    [listedTexts(element), element.querySelector("p").textContent],
    [["hi from team"], "online ready 1"],
  );
  assert.deepEqual(errors, []);
});
