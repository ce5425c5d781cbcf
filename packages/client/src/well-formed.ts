/** Encodes JSON with U+FFFD for lone surrogates: a text that was cut inside an emoji is invalid, and servers refuse it. */
export const wellFormedJson = (value: unknown): string =>
  // JSON.stringify writes only lone surrogates as an escape such as `\ud83d`.
  JSON.stringify(value).replace(/\\(ud[89a-f]..|[^])/g, (escape, what: string) => (what[1] ? "\\ufffd" : escape));
