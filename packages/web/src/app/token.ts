// Tokens, as far as their holder reads them.

/** Whether a JWT has ended. One without an end, or that is no JWT, is for the server to judge. */
export function expired(token: string, now = Date.now()): boolean {
  try {
    const payload = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload)) as { exp?: unknown };
    return typeof exp === "number" && exp * 1000 <= now;
  } catch {
    return false;
  }
}
