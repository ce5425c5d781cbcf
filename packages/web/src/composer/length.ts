// How long a text is for the server: in bytes.

const encoder = new TextEncoder();

/** By how many bytes a text is over the limit. */
export function bytesOver(text: string, limit: number | undefined): number {
  // No character takes more than three bytes for each of its units, so most texts need not be counted.
  if (limit === undefined || text.length * 3 <= limit) return 0;
  return Math.max(0, encoder.encode(text).length - limit);
}
