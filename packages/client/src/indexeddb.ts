// The outbox in a browser's IndexedDB: it survives reloads, and all tabs of an origin share it.

import type { Clock, Timer } from "./clock.js";
import type { OutboxStorage } from "./types.js";

const STORE_NAME = "outbox";
/** Milliseconds within which a database must open. In some versions of Safari opening never ends. */
const OPEN_TIMEOUT_MS = 10_000;

/** Resolves with the request's result when the transaction is complete. */
const transactionResult = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const transaction = request.transaction as IDBTransaction;
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
  });

export function indexedDbOutbox(clock: Clock): OutboxStorage | null {
  if (!globalThis.indexedDB) return null;
  let opening: Promise<IDBDatabase> | undefined;
  /** Forgets the database, because browsers may close it at any time; the next use opens it again. */
  const closeDatabase = () => {
    opening?.then((database) => database.close()).catch(() => {});
    opening = undefined;
  };
  const openDatabase = async () => {
    let timer: Timer | undefined;
    try {
      return await new Promise<IDBDatabase>((resolve, reject) => {
        const request = indexedDB.open("switchboard", 1);
        timer = clock.setTimeout(() => reject(new Error("the database does not open")), OPEN_TIMEOUT_MS);
        request.onupgradeneeded = () => request.result.createObjectStore(STORE_NAME);
        request.onsuccess = () => {
          const database = request.result;
          database.onclose = closeDatabase;
          // Every opened database gets this handler, also one that opened after the time-out.
          database.onversionchange = () => {
            database.close();
            closeDatabase();
          };
          resolve(database);
        };
        request.onerror = () => reject(request.error);
      });
    } finally {
      clock.clearTimeout(timer);
    }
  };
  const useStore = async <T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    for (let again = true; ; again = false) {
      try {
        return await transactionResult(
          act((await (opening ??= openDatabase())).transaction(STORE_NAME, mode).objectStore(STORE_NAME)),
        );
      } catch (error) {
        closeDatabase();
        if (!again) throw error;
      }
    }
  };
  return {
    load: (scope) => useStore("readonly", (store) => store.getAll(IDBKeyRange.bound([scope], [scope, []]))),
    put: async (scope, entry) => void (await useStore("readwrite", (store) => store.put(entry, [scope, entry.key]))),
    delete: async (scope, key) => void (await useStore("readwrite", (store) => store.delete([scope, key]))),
  };
}
