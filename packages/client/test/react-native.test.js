// The SDK with only the globals of React Native, without a page, against the real server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import vm from "node:vm";
import { build } from "esbuild";
import WebSocket from "ws";
import { asyncStorageCursors, asyncStorageOutbox, nativeNetwork } from "@switchboard/client/react-native";
import { Server, until, connectionGroup } from "./support.js";

/** The `URL` of React Native: it appends a slash to its text, and has no setters. */
class NativeUrl {
  #href;
  constructor(url, base) {
    if (base !== undefined || !/^[a-z]+:\/\//.test(url)) throw new TypeError(`Invalid URL: ${url}`);
    this.#href = url.endsWith("/") ? url : `${url}/`;
  }
  get href() {
    return this.#href;
  }
  get hash() {
    throw new Error("URL.hash is not implemented");
  }
}

/** Bundles the SDK as an app does, and runs it with only these globals. */
async function loadAsNativeApp(moreGlobals) {
  const { outputFiles } = await build({
    stdin: {
      contents: 'export * from "@switchboard/client"; export * from "@switchboard/client/react-native"',
      resolveDir: fileURLToPath(new URL(".", import.meta.url)),
    },
    bundle: true,
    write: false,
    format: "iife",
    globalName: "Sdk",
    conditions: ["react-native"],
    target: "es2022",
    logLevel: "error",
  });
  const globals = { console, setTimeout, clearTimeout, setInterval, clearInterval, queueMicrotask };
  const context = vm.createContext({
    ...globals,
    AbortController,
    performance,
    URL: NativeUrl,
    WebSocket,
    ...moreGlobals,
  });
  for (const name of ["document", "window", "crypto", "indexedDB", "BroadcastChannel", "addEventListener", "navigator"])
    assert.equal(vm.runInContext(`typeof ${name}`, context), "undefined");
  return vm.runInContext(`${outputFiles[0].text}; Sdk`, context);
}

/** A fake `AsyncStorage`; `count` is a readable with the number of its items. */
function asyncStorage() {
  const items = new Map();
  const listeners = new Set();
  const notifyListeners = () => listeners.forEach((listener) => listener(items.size));
  return {
    count: {
      getSnapshot: () => items.size,
      subscribe(listener) {
        listeners.add(listener);
        listener(items.size);
        return () => listeners.delete(listener);
      },
    },
    getItem: async (key) => items.get(key) ?? null,
    setItem: async (key, value) => (items.set(key, value), notifyListeners()),
    removeItem: async (key) => (items.delete(key), notifyListeners()),
    getAllKeys: async () => [...items.keys()],
  };
}

/** A fake `AppState` and `NetInfo`, which a test sets. */
function fakeDevice() {
  const listeners = { app: new Set(), net: new Set() };
  const AppState = {
    currentState: "active",
    addEventListener(type, listener) {
      assert.equal(type, "change");
      listeners.app.add(listener);
      return { remove: () => listeners.app.delete(listener) };
    },
  };
  const NetInfo = {
    addEventListener(listener) {
      listeners.net.add(listener);
      listener({ isConnected: true });
      return () => listeners.net.delete(listener);
    },
  };
  return {
    AppState,
    NetInfo,
    listeners,
    app(state) {
      AppState.currentState = state;
      for (const listener of listeners.app) listener(state);
    },
    net: (isConnected) => listeners.net.forEach((listener) => listener({ isConnected })),
  };
}

test("without a page, `crypto` or IndexedDB: messages go and come, and those of offline outlive the app", async (t) => {
  const server = await Server.start(t);
  const storage = asyncStorage();
  const startChatOn = async (line) => {
    const { connect, asyncStorageOutbox } = await loadAsNativeApp({ WebSocket: line.WebSocket });
    const chat = connect(server.url, { user: "alice", outbox: asyncStorageOutbox(storage) });
    t.after(() => chat.close());
    return chat;
  };
  const firstConnections = connectionGroup();
  const chatBeforeRestart = await startChatOn(firstConnections);
  const room = chatBeforeRestart.conversation("#general");
  await until(room.messages, (list) => list.length === 3);
  await room.send("online").acked;
  firstConnections.goOffline();
  await until(chatBeforeRestart.status, ({ state }) => state === "offline");
  const unacknowledged = room.send("offline 🎉");
  assert.equal(new Set([unacknowledged.key, room.send("second").key]).size, 2);
  await until(storage.count, (count) => count === 2);
  chatBeforeRestart.close();
  const chatAfterRestart = await startChatOn(connectionGroup());
  const texts = ["online", "offline 🎉", "second"];
  await until(
    chatAfterRestart.conversation("#general").messages,
    (list) =>
      list
        .slice(3)
        .map(({ text, state }) => state === "sent" && text)
        .join() === texts.join(),
  );
  await until(storage.count, (count) => count === 0);
  assert.equal((await server.history("alice", "#general")).length, 6);
});

test("AsyncStorage gives back what was put, in order, by server and user", async () => {
  const storage = asyncStorage();
  const outbox = asyncStorageOutbox(storage);
  const outboxEntry = (key, time) => ({ key, time, to: "#a", text: key });
  // The calls are made without waiting; the storage runs them one after the other.
  const allEntries = [
    outbox.put("s alice", outboxEntry("two", 2)),
    outbox.put("s alice", outboxEntry("one", 1)),
    outbox.put("s bob", outboxEntry("his", 1)),
    outbox.put("s alice", outboxEntry("gone", 3)),
    outbox.delete("s alice", "gone"),
  ];
  assert.deepEqual(await outbox.load("s alice"), [outboxEntry("one", 1), outboxEntry("two", 2)]);
  await Promise.all(allEntries);
  const failingOutbox = asyncStorageOutbox({ ...storage, setItem: () => Promise.reject(new Error("full")) });
  await assert.rejects(failingOutbox.put("s bob", outboxEntry("x", 1)), /full/);
  assert.deepEqual(await failingOutbox.load("s bob"), [outboxEntry("his", 1)], "a failure does not end it");
  const cursors = asyncStorageCursors(storage);
  await Promise.all([cursors.save("s alice", { "#a": 1, "#b": 2 }), cursors.save("s alice", { "#a": 3 })]);
  assert.deepEqual(await cursors.load("s alice"), { "#a": 3, "#b": 2 });
  assert.deepEqual(await cursors.load("s bob"), {});
});

test("the app in front and the network back: it is told, once for each, until it unsubscribes", () => {
  const { AppState, NetInfo, app, net, listeners } = fakeDevice();
  const network = nativeNetwork({ AppState, NetInfo });
  const networkEvents = [];
  const stop = network.subscribe((event) => networkEvents.push(event));
  assert.equal(network.visible(), true);
  app("background");
  assert.equal(network.visible(), false);
  app("active");
  net(null);
  net(true);
  net(false);
  net(false);
  net(true);
  assert.deepEqual(networkEvents, ["visible", "online"]);
  stop();
  app("active");
  assert.deepEqual([networkEvents.length, listeners.app.size, listeners.net.size], [2, 0, 0]);
  nativeNetwork({ AppState }).subscribe(() => {})();
});

test("the app that comes to the front connects at once", async (t) => {
  const server = await Server.start(t);
  const { AppState, app } = fakeDevice();
  const connections = connectionGroup();
  const chat = server.connects(t, "alice", { WebSocket: connections.WebSocket, network: nativeNetwork({ AppState }) });
  await until(chat.status, ({ state }) => state === "online");
  app("background");
  connections.goOffline();
  // Waits for a backoff so long that only the event "the app is active" can end it in time.
  await until(chat.status, ({ retryIn }) => retryIn > 1_500);
  connections.goOnline();
  const from = performance.now();
  app("active");
  await until(chat.status, ({ state }) => state === "online");
  assert.ok(performance.now() - from < 1_000);
});
