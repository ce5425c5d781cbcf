/** A promise whose failure an app may leave alone: nothing of it is unhandled. */
export function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
