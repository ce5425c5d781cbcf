// The length of a text as the server counts it: in bytes of UTF-8.

const encoder = new TextEncoder();

/** By how many bytes a text is over the limit. */
export function bytesOver(text: string, limit: number | undefined): number {
  // A UTF-16 unit takes at most three bytes in UTF-8, so most texts need no exact count.
  if (limit === undefined || text.length * 3 <= limit) return 0;
  return Math.max(0, encoder.encode(text).length - limit);
}
