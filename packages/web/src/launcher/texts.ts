// The launcher's texts. The page's own texts, of the property `texts`, take their place.

export interface LauncherTexts {
  readonly launcherOpen: string;
  readonly launcherClose: string;
  readonly launcherUnread: string;
  readonly launcherDismiss: string;
  readonly launcherTitle: string;
  readonly launcherFailed: string;
  readonly launcherAttachment: string;
}

const TEXTS: Readonly<Record<string, LauncherTexts>> = {
  en: {
    launcherOpen: "Open the chat",
    launcherClose: "Close the chat",
    launcherUnread: "{n} unread",
    launcherDismiss: "Dismiss",
    launcherTitle: "Chat",
    launcherFailed: "The chat cannot be loaded. Try again later.",
    launcherAttachment: "New message",
  },
  de: {
    launcherOpen: "Chat öffnen",
    launcherClose: "Chat schließen",
    launcherUnread: "{n} ungelesen",
    launcherDismiss: "Ausblenden",
    launcherTitle: "Chat",
    launcherFailed: "Der Chat lässt sich nicht laden. Versuche es später noch einmal.",
    launcherAttachment: "Neue Nachricht",
  },
};

export function launcherTexts(
  wanted: readonly string[],
  own: Readonly<Record<string, Partial<LauncherTexts>>> = {},
): LauncherTexts {
  const known = (tag: string) => Object.hasOwn(TEXTS, tag) || Object.hasOwn(own, tag);
  const tag = wanted.map((one) => one.toLowerCase().split("-")[0]!).find(known) ?? "en";
  return { ...TEXTS["en"]!, ...TEXTS[tag], ...own[tag] };
}
