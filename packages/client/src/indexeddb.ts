// The outbox of a browser: it outlives the page, and all tabs of an origin see it.

import type { OutboxEntry, OutboxStorage } from "./types.js";

const STORE = "outbox";

const finished = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export function indexedDbOutbox(): OutboxStorage | null {
  if (!globalThis.indexedDB) return null;
  let opening: Promise<IDBDatabase> | undefined;
  const open = () => {
    if (!opening) {
      const request = indexedDB.open("switchboard", 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE);
      opening = finished(request);
    }
    return opening;
  };
  const use = async <T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> =>
    finished(act((await open()).transaction(STORE, mode).objectStore(STORE)));
  return {
    load: async (scope) => {
      const entries: OutboxEntry[] = await use("readonly", (store) =>
        store.getAll(IDBKeyRange.bound([scope], [scope, []])),
      );
      return entries.sort((a, b) => a.time - b.time);
    },
    put: async (scope, entry) => void (await use("readwrite", (store) => store.put(entry, [scope, entry.key]))),
    delete: async (scope, key) => void (await use("readwrite", (store) => store.delete([scope, key]))),
  };
}
