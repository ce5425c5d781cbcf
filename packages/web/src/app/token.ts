// Finds out whether a token has expired.

/** Whether a JWT has expired. False for a JWT without `exp` and for any other text, because the server decides about those. */
export function isExpired(token: string, now = Date.now()): boolean {
  try {
    const payload = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload)) as { exp?: unknown };
    return typeof exp === "number" && exp * 1000 <= now;
  } catch {
    return false;
  }
}
