/**
 * Makes an idempotency key or a room id, unique for the user. `crypto.randomUUID` exists only on secure pages, and React
 * Native has no `crypto` without a polyfill. Then twice 53 random bits and the time are unique enough, because keys are no
 * secrets.
 */
export function makeKey(): string {
  const { crypto } = globalThis;
  if (!crypto?.getRandomValues) return [Math.random(), Math.random(), Date.now() / 2 ** 50].map(base36Digits).join("");
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const base36Digits = (fraction: number): string => fraction.toString(36).slice(2);
