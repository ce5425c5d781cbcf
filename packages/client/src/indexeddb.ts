// The outbox of a browser: it outlives the page, and all tabs of an origin see it.

import type { Clock } from "./clock.js";
import type { OutboxEntry, OutboxStorage } from "./types.js";

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
  const open = () => {
    opening ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open("switchboard", 1);
      const timer = clock.setTimeout(() => reject(new Error("the database does not open")), OPEN_TIMEOUT);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE);
      request.onsuccess = () => {
        const database = request.result;
        clock.clearTimeout(timer);
        database.onclose = forget;
        database.onversionchange = () => {
          database.close();
          forget();
        };
        resolve(database);
      };
      request.onerror = () => {
        clock.clearTimeout(timer);
        reject(request.error);
      };
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
