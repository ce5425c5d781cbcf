// Keyboard shortcuts. Those without Ctrl or Alt work only in the log, so that speech input does not trigger them
// (WCAG 2.1.4).

import { tick } from "svelte";
import type { AppState } from "./app-state.svelte.js";

const isModal = (target: EventTarget | null) =>
  target instanceof Element && target.closest("[popover], dialog") !== null;

/** The regions between which F6 moves, by the element in each that takes the focus. */
const REGIONS = [
  [".sidebar", ".conversation[tabindex='0'], [type=search]"],
  [".log", "article[tabindex='0']"],
  [".composer", "textarea"],
] as const;

export function shortcuts(event: KeyboardEvent, appState: AppState, board: ParentNode): void {
  if (event.defaultPrevented || isModal(event.target)) return;
  if (withControl(event, appState) || (!event.ctrlKey && !event.metaKey && handlePlainKey(event, appState, board)))
    event.preventDefault();
}

function withControl({ key, ctrlKey, metaKey, altKey, shiftKey }: KeyboardEvent, appState: AppState): boolean {
  if (key.toLowerCase() !== "k" || !(ctrlKey || metaKey) || altKey || shiftKey || !appState.host.sidebar) return false;
  // On a narrow screen the list is hidden while a conversation is open.
  if (!appState.finder?.checkVisibility()) appState.host.navigation.close();
  void tick().then(() => {
    appState.finder?.focus();
    appState.finder?.select();
  });
  return true;
}

function handlePlainKey(
  { key, altKey, shiftKey, target }: KeyboardEvent,
  appState: AppState,
  board: ParentNode,
): boolean {
  if (altKey)
    return (key === "ArrowUp" || key === "ArrowDown") && nextConversation(key === "ArrowUp" ? -1 : 1, appState);
  if (key === "F6") return nextRegion(shiftKey ? -1 : 1, target, board);
  if (!(target instanceof Element) || !target.closest(".log")) return false;
  if (key === "?") {
    appState.dialogs.open({ name: "shortcuts" });
    return true;
  }
  const field = key === "c" && board.querySelector<HTMLTextAreaElement>(".composer textarea");
  if (field) field.focus();
  return !!field;
}

function nextConversation(step: 1 | -1, appState: AppState): boolean {
  if (!appState.host.sidebar) return false;
  const ids = appState.inbox.map(({ id }) => id);
  const next = ids[ids.indexOf(appState.open?.id ?? "") + step];
  if (next !== undefined) appState.show(next);
  return next !== undefined;
}

function nextRegion(step: 1 | -1, target: EventTarget | null, board: ParentNode): boolean {
  const elements = REGIONS.flatMap(([region, inside]) => {
    const element = board.querySelector(region);
    const focusTarget = element?.querySelector<HTMLElement>(inside);
    return element && focusTarget?.checkVisibility() ? [{ element, stop: focusTarget }] : [];
  });
  const at = elements.findIndex(({ element }) => target instanceof Node && element.contains(target));
  const next = at < 0 ? 0 : (at + step + elements.length) % elements.length;
  elements[next]?.stop.focus();
  return elements.length > 0;
}
