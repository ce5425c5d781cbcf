// Turns a typed user or room name into the server's id.

const NAME = /^[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$/;

/** `@bob` for `bob` or `@bob`; undefined if the name is invalid. */
export function userId(text: string): string | undefined {
  const name = text.trim().replace(/^@/, "");
  return NAME.test(name) ? `@${name}` : undefined;
}

/** `#general` for `general` or `#general`. */
export function roomId(text: string): string | undefined {
  const name = text.trim().replace(/^#/, "");
  return NAME.test(name) ? `#${name}` : undefined;
}
