// The SDK's part for safety, and what moderators have decided.

import { moderation, type BlockedUser, type Decision, type Moderation } from "@switchboard/client/moderation";
import type { AppState } from "./app-state.svelte.js";

/** Starts it for the page's user; decisions are shown as they come. */
export function startModeration(
  { chat, notices, language }: Pick<AppState, "chat" | "notices" | "language">,
  onBlocked: (blocked: readonly BlockedUser[]) => void,
): Moderation {
  const started = moderation(chat);
  started.blocked.subscribe((blocked) => onBlocked(blocked ?? []));
  started.onDecision((decision) => notices.showText(textOf(decision, language.t)));
  return started;
}

function textOf({ action, report, text = "" }: Decision, t: AppState["language"]["t"]): string {
  if (report !== undefined) return t(action === "none" ? "decidedNothing" : "decidedOnReport");
  if (action === "reject") return t("decidedReject", { text });
  return t(action === "delete" ? "decidedDelete" : "decidedOnAuthor", { text });
}
