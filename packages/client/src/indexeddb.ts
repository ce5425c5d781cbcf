// The outbox of a browser: it outlives the page, and all tabs of an origin see it.

import type { Clock, Timer } from "./clock.js";
import type { OutboxStorage } from "./types.js";

const STORE = "outbox";
/** Milliseconds in which a database opens. Safari has versions in which that never ends. */
const OPEN_TIMEOUT = 10_000;

/** The request's result, when its transaction is done. */
const finished = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const transaction = request.transaction as IDBTransaction;
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
  });

export function indexedDbOutbox(clock: Clock): OutboxStorage | null {
  if (!globalThis.indexedDB) return null;
  let opening: Promise<IDBDatabase> | undefined;
  /** Browsers close a database as they like; the next use opens it again. */
  const forget = () => {
    opening?.then((database) => database.close()).catch(() => {});
    opening = undefined;
  };
  const open = async () => {
    let timer: Timer | undefined;
    try {
      return await new Promise<IDBDatabase>((resolve, reject) => {
        const request = indexedDB.open("switchboard", 1);
        timer = clock.setTimeout(() => reject(new Error("the database does not open")), OPEN_TIMEOUT);
        request.onupgradeneeded = () => request.result.createObjectStore(STORE);
        request.onsuccess = () => {
          const database = request.result;
          database.onclose = forget;
          // Also one that has opened too late for anyone to use it.
          database.onversionchange = () => {
            database.close();
            forget();
          };
          resolve(database);
        };
        request.onerror = () => reject(request.error);
      });
    } finally {
      clock.clearTimeout(timer);
    }
  };
  const use = async <T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    for (let again = true; ; again = false) {
      try {
        return await finished(act((await (opening ??= open())).transaction(STORE, mode).objectStore(STORE)));
      } catch (error) {
        forget();
        if (!again) throw error;
      }
    }
  };
  return {
    load: (scope) => use("readonly", (store) => store.getAll(IDBKeyRange.bound([scope], [scope, []]))),
    put: async (scope, entry) => void (await use("readwrite", (store) => store.put(entry, [scope, entry.key]))),
    delete: async (scope, key) => void (await use("readwrite", (store) => store.delete([scope, key]))),
  };
}
