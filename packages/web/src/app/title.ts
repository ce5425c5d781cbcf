// Shows the number of unread messages in the page's title and icon.

import { isolateDirection } from "../i18n/catalogue.js";

export function showUnread(count: number, conversation: string | undefined): void {
  const name = conversation ? `${isolateDirection(conversation)} – Switchboard` : "Switchboard";
  document.title = count ? `(${count}) ${name}` : name;
  const icon = document.getElementById("icon") as HTMLLinkElement | null;
  const href = count ? "./favicon-unread.svg" : "./favicon.svg";
  if (icon && icon.getAttribute("href") !== href) icon.href = href;
}
