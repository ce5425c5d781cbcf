// Returns the focus when a popup or a dialog closes. Browsers do so themselves, but in a shadow root they focus the host
// in place of the element inside it.

/** The focused element, also inside shadow roots. */
export function focusedElement(): HTMLElement | undefined {
  let active = document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return active instanceof HTMLElement && active !== document.body ? active : undefined;
}

/** Focuses the element, unless another one has taken the focus. */
export function restoreFocus(element: HTMLElement | undefined): void {
  const now = focusedElement();
  if (element?.isConnected && (!now || now.shadowRoot)) element.focus({ preventScroll: true });
}
