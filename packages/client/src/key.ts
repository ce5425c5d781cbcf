/**
 * An idempotency key, or the id of a room: unique for its user. `crypto.randomUUID` is there on secure pages only, and in
 * React Native there is no `crypto` without a polyfill: 53 random bits twice and the time are unique enough, as keys
 * are no secrets.
 */
export function makeKey(): string {
  const { crypto } = globalThis;
  if (!crypto?.getRandomValues) return [Math.random(), Math.random(), Date.now() / 2 ** 50].map(digits).join("");
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const digits = (fraction: number): string => fraction.toString(36).slice(2);
