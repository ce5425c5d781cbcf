// React Native: storages for the outbox and the cursors, and the events that the app is active or the network is back. This file
// imports nothing of React Native; the app passes it in.
//
//     connect(url, {
//       token,
//       outbox: asyncStorageOutbox(AsyncStorage),
//       network: nativeNetwork({ AppState, NetInfo }),
//     });

import type { CursorStorage, NetworkSource, OutboxEntry, OutboxStorage } from "./types.js";

/** The methods of `@react-native-async-storage/async-storage` that the SDK uses; any storage with these methods works. */
export interface AsyncStorageLike {
  getItem(key: string): Promise<string | null>;
  setItem(key: string, value: string): Promise<unknown>;
  removeItem(key: string): Promise<unknown>;
  getAllKeys(): Promise<readonly string[]>;
}

/** React Native's `AppState`. */
export interface AppStateLike {
  readonly currentState: string | null;
  addEventListener(type: "change", listener: (state: string) => void): { remove(): void };
}

/** The part of `@react-native-community/netinfo` that the SDK uses: it calls the listener with every change. */
export interface NetInfoLike {
  addEventListener(listener: (state: { isConnected: boolean | null }) => void): () => void;
}

/** Runs functions one after the other, so that a deletion does not overtake the write before it. */
function serialQueue() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(run: () => Promise<T>): Promise<T> => {
    const done = last.then(run, run);
    last = done.catch(() => {});
    return done;
  };
}

/** Stores the outbox in AsyncStorage, so that unacknowledged messages survive the end of the app. */
export function asyncStorageOutbox(storage: AsyncStorageLike): OutboxStorage {
  const runInOrder = serialQueue();
  const keyPrefix = (scope: string) => `switchboard:outbox:${scope}:`;
  return {
    load: (scope) =>
      runInOrder(async () => {
        const keys = (await storage.getAllKeys()).filter((key) => key.startsWith(keyPrefix(scope)));
        const items = await Promise.all(keys.map((key) => storage.getItem(key)));
        const entries = items.flatMap((item) => (item === null ? [] : [JSON.parse(item) as OutboxEntry]));
        return entries.sort((a, b) => a.time - b.time);
      }),
    put: (scope, entry) =>
      runInOrder(async () => void (await storage.setItem(keyPrefix(scope) + entry.key, JSON.stringify(entry)))),
    delete: (scope, key) => runInOrder(async () => void (await storage.removeItem(keyPrefix(scope) + key))),
  };
}

/** Stores in AsyncStorage how far the listeners of `on("message")` have handled each conversation. */
export function asyncStorageCursors(storage: AsyncStorageLike): CursorStorage {
  const inTurn = serialQueue();
  const storageKey = (scope: string) => `switchboard:cursors:${scope}`;
  const load = async (scope: string) =>
    JSON.parse((await storage.getItem(storageKey(scope))) ?? "{}") as Record<string, number>;
  return {
    load: (scope) => inTurn(() => load(scope)),
    save: (scope, cursors) =>
      inTurn(async () => {
        const all = { ...(await load(scope)), ...cursors };
        await storage.setItem(storageKey(scope), JSON.stringify(all));
      }),
  };
}

/** Reports when the app becomes active, and with NetInfo when the network is back, so that the chat reconnects at once. */
export function nativeNetwork({ AppState, NetInfo }: { AppState: AppStateLike; NetInfo?: NetInfoLike }): NetworkSource {
  return {
    visible: () => AppState.currentState === "active",
    subscribe(listener) {
      const state = AppState.addEventListener("change", (now: string) => {
        if (now === "active") listener("visible");
      });
      let connected: boolean | null = true;
      const stop = NetInfo?.addEventListener(({ isConnected }) => {
        // The first call reports the current state, which is no change.
        const isBackOnline = isConnected === true && connected === false;
        connected = isConnected;
        if (isBackOnline) listener("online");
      });
      return () => {
        state.remove();
        stop?.();
      };
    },
  };
}
