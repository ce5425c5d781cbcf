// Desktop notifications: of new messages, while the page is hidden.

import type { ChatEvents } from "@switchboard/client";
import { nameOf, peerOf } from "../conversations/name.js";
import { previewOf } from "../text/plain.js";
import type { AppState } from "./app-state.svelte.js";

export function notify(appState: AppState, { message, conversation }: ChatEvents["message"]): void {
  const { host, settings, language, me } = appState;
  if (!host.ownsDocument || !settings.notifications || document.visibilityState === "visible") return;
  if (message.from === me || Notification.permission !== "granted") return;
  // The user has read the message on another device, so there is no notification.
  if ((message.seq ?? 0) <= (conversation.info.getSnapshot()?.read ?? 0)) return;
  const room = nameOf(conversation.id, conversation.info.getSnapshot()?.title, appState);
  const user = appState.people.name(message.from);
  const direct = peerOf(conversation.id, me) !== undefined;
  const title = direct ? language.t("notifiedDirect", { user }) : language.t("notifiedRoom", { user, room });
  try {
    // One notification per conversation: a new one replaces the previous one.
    const notification = new Notification(title, {
      body: previewOf(message, language.t, 200),
      tag: conversation.id,
      icon: "favicon.svg",
    });
    notification.onclick = () => {
      window.focus();
      appState.show(conversation.id);
      notification.close();
    };
  } catch {
    // Some mobile browsers allow notifications from service workers only.
  }
}
