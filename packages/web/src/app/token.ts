// Finds out whether a token has expired.

/** Whether a JWT has expired. False without `exp` or for anything else than a JWT: the server decides then. */
export function expired(token: string, now = Date.now()): boolean {
  try {
    const payload = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload)) as { exp?: unknown };
    return typeof exp === "number" && exp * 1000 <= now;
  } catch {
    return false;
  }
}
