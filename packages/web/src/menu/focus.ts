// Giving the focus back. Browsers do so themselves when a popup or a dialog closes, but in a shadow root they give it to
// the host, which has no use for it.

/** What has the focus, in whatever shadow root. */
export function focused(): HTMLElement | undefined {
  let active = document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return active instanceof HTMLElement && active !== document.body ? active : undefined;
}

/** Unless something else has taken it. */
export function giveBack(element: HTMLElement | undefined): void {
  const now = focused();
  if (element?.isConnected && (!now || now.shadowRoot)) element.focus({ preventScroll: true });
}
