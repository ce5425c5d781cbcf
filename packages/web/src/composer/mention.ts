// Suggests names of members while the user types a name after an `@`.

/** Maximum number of suggested names. */
const MAX_SUGGESTIONS = 6;

/** The partial name before the caret, in lower case, and the position of its `@`. */
export function mentionAt(text: string, caret: number): { from: number; wanted: string } | undefined {
  const found = /(?:^|[\s(])@([A-Za-z0-9._~+=|@-]{0,63})$/.exec(text.slice(Math.max(0, caret - 70), caret));
  return found ? { from: caret - found[1]!.length - 1, wanted: found[1]!.toLowerCase() } : undefined;
}

/** Users whose name starts with `wanted`, then users whose name contains it. */
export function suggestedUsers(users: readonly string[], wanted: string): string[] {
  const at = (user: string) => user.toLowerCase().indexOf(wanted);
  const startingWithText = users.filter((user) => at(user) === 0);
  const containingText = users.filter((user) => at(user) > 0);
  return [...startingWithText, ...containingText].slice(0, MAX_SUGGESTIONS);
}
