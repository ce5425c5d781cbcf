// What somebody types as the name of a user or a room, as the id that the server knows.

const NAME = /^[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$/;

/** `@bob`, of `bob` or `@bob`; nothing if there can be no such user. */
export function userId(text: string): string | undefined {
  const name = text.trim().replace(/^@/, "");
  return NAME.test(name) ? `@${name}` : undefined;
}

/** `#general`, of `general` or `#general`. */
export function roomId(text: string): string | undefined {
  const name = text.trim().replace(/^#/, "");
  return NAME.test(name) ? `#${name}` : undefined;
}
