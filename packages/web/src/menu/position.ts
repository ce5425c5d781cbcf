// Positions a popup beside its anchor and inside the window.

/** The distance between a popup and its anchor, and the smallest one to the edge of the window. */
const GAP_PX = 6;
const EDGE_PX = 8;

export function placeBeside(popup: HTMLElement, anchor: Element): void {
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popup;
  const { clientWidth, clientHeight } = document.documentElement;
  const fitsBelow = at.bottom + GAP_PX + height <= clientHeight - EDGE_PX;
  const fitsAbove = at.top - GAP_PX - height >= EDGE_PX;
  const top = fitsBelow ? at.bottom + GAP_PX : fitsAbove ? at.top - GAP_PX - height : clientHeight - EDGE_PX - height;
  // Align with the side of the anchor that is nearer to the window's edge.
  const left = at.left + at.width / 2 > clientWidth / 2 ? at.right - width : at.left;
  popup.style.top = `${Math.max(EDGE_PX, top)}px`;
  popup.style.left = `${Math.min(Math.max(EDGE_PX, left), clientWidth - EDGE_PX - width)}px`;
}
