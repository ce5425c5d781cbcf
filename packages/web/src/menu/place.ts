// Where something that pops up stands: beside what it belongs to, inside the window.

/** Pixels between the two, and to the edge of the window. */
const GAP = 6;
const EDGE = 8;

export function placeBeside(popup: HTMLElement, anchor: Element): void {
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popup;
  const { clientWidth, clientHeight } = document.documentElement;
  const below = at.bottom + GAP + height <= clientHeight - EDGE;
  const above = at.top - GAP - height >= EDGE;
  const top = below ? at.bottom + GAP : above ? at.top - GAP - height : clientHeight - EDGE - height;
  // Aligned with the nearer side of what it belongs to.
  const left = at.left + at.width / 2 > clientWidth / 2 ? at.right - width : at.left;
  popup.style.top = `${Math.max(EDGE, top)}px`;
  popup.style.left = `${Math.min(Math.max(EDGE, left), clientWidth - EDGE - width)}px`;
}
