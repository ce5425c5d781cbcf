// Keyboard shortcuts that work everywhere except while typing.

import type { AppState } from "./app-state.svelte.js";

const isTextField = (target: EventTarget | null) =>
  target instanceof Element && target.closest("input, textarea, select, [popover], dialog") !== null;

export function shortcuts(event: KeyboardEvent, appState: AppState, board: ParentNode): void {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey) return;
  const { key, altKey } = event;
  if (altKey && (key === "ArrowUp" || key === "ArrowDown")) {
    const ids = appState.inbox.map(({ id }) => id);
    const next = ids[ids.indexOf(appState.open?.id ?? "") + (key === "ArrowUp" ? -1 : 1)];
    if (next !== undefined) appState.show(next);
  } else if (altKey || isTextField(event.target)) {
    return;
  } else if (key === "?") {
    appState.dialogs.open({ name: "shortcuts" });
  } else if (key === "c") {
    const field = board.querySelector<HTMLTextAreaElement>(".composer textarea");
    if (!field) return;
    field.focus();
  } else {
    return;
  }
  event.preventDefault();
}
