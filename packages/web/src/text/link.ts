// Addresses that become links: these schemes and no others, so that no text can make a script run.

const SCHEMES = new Set(["http:", "https:", "mailto:"]);
/** Longest address that is looked at. */
export const MAX_LINK = 2048;

/** The address as it is put into the link, or nothing if it is none that may be followed. */
export function address(text: string): string | undefined {
  if (text.length > MAX_LINK || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  return SCHEMES.has(url.protocol) ? url.href : undefined;
}

const START = /(?:https?:\/\/|mailto:)[^\s<>"\u0000-\u001f\u202a-\u202e\u2066-\u2069]+/y;
const TRAILING = new Set(".,;:!?'\"*_~");

/**
 * A bare address that begins at `at`, without the punctuation that ends the sentence around it. One that may not be
 * followed comes without `href`, and is passed over as a whole: what is in it is not looked at again.
 */
export function bareLink(text: string, at: number): { text: string; href: string | undefined } | undefined {
  START.lastIndex = at;
  const found = START.exec(text)?.[0];
  if (!found) return undefined;
  let open = 0;
  for (const char of found) open += char === "(" ? 1 : char === ")" ? -1 : 0;
  let end = found.length;
  for (; end > 0; end--) {
    const last = found[end - 1]!;
    if (last === ")" && open < 0) open++;
    else if (!TRAILING.has(last)) break;
  }
  const link = found.slice(0, end);
  const href = address(link);
  return { text: href === undefined ? found : link, href };
}
