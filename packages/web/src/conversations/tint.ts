// The colour of a user or a room: one of twelve hues, the same on every device.

/** Twelve hues of OKLCH, 30 degrees apart, in an order in which neighbours differ most. */
const HUES = [262, 22, 142, 322, 82, 202, 352, 112, 232, 52, 172, 292] as const;

/** The FNV-1a hash, whose low bits differ also for names that differ in one letter. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

export interface Tint {
  hue: number;
  /** The lightness: hues next to each other on the wheel differ in it, too. */
  tone: number;
}

export function tintOf(name: string): Tint {
  const hue = HUES[fnv1a(name.replace(/^[@#]/, "")) % HUES.length]!;
  return { hue, tone: ((hue - 22) / 30) % 2 ? 0.46 : 0.53 };
}
