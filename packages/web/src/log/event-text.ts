// The text of a line about joins, leaves, roles, renames and withheld messages.

import type { Notice } from "@switchboard/client";
import { isolateDirection } from "../i18n/catalogue.js";
import type { AppState } from "../app/app-state.svelte.js";

/** Maximum number of users by name; further ones are only counted. */
const MAX_NAMED = 3;

export function eventText(
  notices: readonly Notice[],
  { language, people }: Pick<AppState, "language" | "people">,
): string {
  const { t } = language;
  const { type, from, user: about, role, title } = notices[0]!;
  const nameOf = (user: string) => isolateDirection(people.name(user));
  const users = [...new Set(notices.map((notice) => notice.user ?? notice.from))].map(nameOf);
  const more = users.length - MAX_NAMED;
  const names = language.list(more > 0 ? [...users.slice(0, MAX_NAMED), t("others", { n: more })] : users);
  const by = nameOf(from);
  switch (type) {
    case "create":
      return t("eventCreate", { by });
    case "join":
      return t("eventJoin", { names, n: users.length });
    case "leave":
      return t("eventLeave", { names, n: users.length });
    case "invite":
      return t("eventInvite", { by, names });
    case "remove":
      return t("eventRemove", { by, names });
    case "rename":
      return t("eventRename", { by, title: title ?? "" });
    case "withheld":
      return t("eventWithheld", { names, n: notices.length });
    case "role":
      return t("eventRole", { by, user: nameOf(about ?? from), role: t(`role_${role ?? "member"}`) });
  }
}
