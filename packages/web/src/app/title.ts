// How much is unread, in the title of the page and on its icon.

export function showUnread(count: number, conversation: string | undefined): void {
  // A title that is written from right to left ends where it ends.
  const name = conversation ? `\u2068${conversation}\u2069 – Switchboard` : "Switchboard";
  document.title = count ? `(${count}) ${name}` : name;
  const icon = document.getElementById("icon") as HTMLLinkElement | null;
  const href = count ? "/favicon-unread.svg" : "/favicon.svg";
  if (icon && icon.getAttribute("href") !== href) icon.href = href;
}
