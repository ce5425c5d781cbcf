// Reads what a token says, without checking its signature.

function payload(token: string): { exp?: unknown; sub?: unknown } {
  try {
    const base64 = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    return (JSON.parse(atob(base64)) as object | null) ?? {};
  } catch {
    return {};
  }
}

/** Whether a JWT has expired. False for a JWT without `exp` and for any other text, because the server decides about those. */
export function isExpired(token: string, now = Date.now()): boolean {
  const { exp } = payload(token);
  return typeof exp === "number" && exp * 1000 <= now;
}

/** The user whom a JWT names; `undefined` for any other text. */
export function userOf(token: string): string | undefined {
  const { sub } = payload(token);
  return typeof sub === "string" ? sub : undefined;
}
