// The outbox in a browser's IndexedDB: it survives reloads, and all tabs of an origin share it.

import type { Clock, Timer } from "./clock.js";
import type { OutboxStorage } from "./types.js";

const STORE = "outbox";
/** Milliseconds within which a database must open. In some versions of Safari opening never ends. */
const OPEN_TIMEOUT = 10_000;

/** Resolves with the request's result when the transaction is complete. */
const finished = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const transaction = request.transaction as IDBTransaction;
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
  });

export function indexedDbOutbox(clock: Clock): OutboxStorage | null {
  if (!globalThis.indexedDB) return null;
  let opening: Promise<IDBDatabase> | undefined;
  /** Forgets the database, because browsers may close it at any time; the next use opens it again. */
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
          // Every opened database gets this handler, also one that opened after the time-out.
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
