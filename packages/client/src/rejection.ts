/** Returns the promise, whose rejection an app may ignore without an "unhandled rejection". */
export function ignoreUnhandledRejection<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
