// Addresses that become links: only safe schemes, so that no text can run a script.

const ALLOWED_SCHEMES = new Set(["http:", "https:", "mailto:"]);
/** Longest address that becomes a link, in UTF-16 units. */
export const MAX_LINK = 2048;

/** The normalised address for a link, or undefined if it is invalid or its scheme is not allowed. */
export function address(text: string): string | undefined {
  if (text.length > MAX_LINK || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  return ALLOWED_SCHEMES.has(url.protocol) ? url.href : undefined;
}

/** From an allowed scheme up to the next space: a link with the punctuation that may follow it. */
const LINK_UP_TO_SPACE = /(?:https?:\/\/|mailto:)[^\s<>"\u0000-\u001f\u202a-\u202e\u2066-\u2069]+/y;
const TRAILING_PUNCTUATION = new Set(".,;:!?'\"*_~");

/**
 * A bare address that begins at `at`, without the punctuation of the surrounding sentence. If its scheme is not allowed,
 * `href` is undefined and `text` is all of it, so that the parser skips it as a whole.
 */
export function bareLink(text: string, at: number): { text: string; href: string | undefined } | undefined {
  LINK_UP_TO_SPACE.lastIndex = at;
  const found = LINK_UP_TO_SPACE.exec(text)?.[0];
  if (!found) return undefined;
  let open = 0;
  for (const char of found) open += char === "(" ? 1 : char === ")" ? -1 : 0;
  let end = found.length;
  for (; end > 0; end--) {
    const last = found[end - 1]!;
    if (last === ")" && open < 0) open++;
    else if (!TRAILING_PUNCTUATION.has(last)) break;
  }
  const link = found.slice(0, end);
  const href = address(link);
  return { text: href === undefined ? found : link, href };
}

const LIKE_ADDRESS = /^(?:[a-z][a-z0-9+.-]*:)?(?:\/\/)?([^\s/?#]*\.[^\s/?#]{2,})(?:[/?#].*)?$/iu;

/** The host that an address leads to, in the form that DNS uses; for `mailto:` the address. */
export function hostOf(href: string): string {
  const url = new URL(href);
  return url.protocol === "mailto:" ? url.pathname : url.host;
}

/**
 * The real host of a link, if its name looks like an address that leads elsewhere, or hides a part of the host: another
 * host, a user before the host, or letters of another script. `undefined` for a link that says where it leads.
 */
export function maskedHost(name: string, href: string): string | undefined {
  const text = name.trim();
  const host = hostOf(href);
  const [, shown] = LIKE_ADDRESS.exec(text) ?? [];
  if (shown === undefined || shown.toLowerCase() === host || `www.${shown.toLowerCase()}` === host) return undefined;
  return host;
}
