/** As JSON, half a surrogate made U+FFFD: a text that was cut inside an emoji is no Unicode, and no server takes it. */
export const wellFormedJson = (value: unknown): string =>
  // JSON.stringify writes nothing but halves as `\ud83d`.
  JSON.stringify(value).replace(/\\(ud[89a-f]..|[^])/g, (escape, what: string) => (what[1] ? "\\ufffd" : escape));
