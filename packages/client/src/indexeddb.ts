// The outbox of a browser: it outlives the page, and all tabs of an origin see it.

import type { OutboxEntry, OutboxStorage } from "./types.js";

const STORE = "outbox";

/** The request's result, when its transaction is done. */
const finished = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const transaction = request.transaction as IDBTransaction;
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
  });

export function indexedDbOutbox(): OutboxStorage | null {
  if (!globalThis.indexedDB) return null;
  let opening: Promise<IDBDatabase> | undefined;
  /** Browsers close a database as they like; the next use opens it again. */
  const forget = () => {
    opening?.then((database) => database.close()).catch(() => {});
    opening = undefined;
  };
  const open = () => {
    opening ??= new Promise((resolve, reject) => {
      const request = indexedDB.open("switchboard", 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE);
      request.onsuccess = () => {
        request.result.onclose = request.result.onversionchange = forget;
        resolve(request.result);
      };
      request.onerror = () => reject(request.error);
      request.onblocked = () => reject(new Error("another page holds the database"));
    });
    return opening;
  };
  const use = async <T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    for (let again = true; ; again = false) {
      try {
        return await finished(act((await open()).transaction(STORE, mode).objectStore(STORE)));
      } catch (error) {
        forget();
        if (!again) throw error;
      }
    }
  };
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
