// Completing the name of a member after an `@`.

/** Most names that are offered at once. */
const MOST = 6;

/** The beginning of a name in front of the caret, and where its `@` stands. */
export function mentionAt(text: string, caret: number): { from: number; wanted: string } | undefined {
  const found = /(?:^|[\s(])@([A-Za-z0-9._~+=|@-]{0,63})$/.exec(text.slice(Math.max(0, caret - 70), caret));
  return found ? { from: caret - found[1]!.length - 1, wanted: found[1]!.toLowerCase() } : undefined;
}

/** Those whose name begins like this, then those that have it in it. */
export function offered(users: readonly string[], wanted: string): string[] {
  const at = (user: string) => user.toLowerCase().indexOf(wanted);
  const begin = users.filter((user) => at(user) === 0);
  const contain = users.filter((user) => at(user) > 0);
  return [...begin, ...contain].slice(0, MOST);
}
