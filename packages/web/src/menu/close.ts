// Closing what an event came from.

const around = <E extends HTMLElement>(event: Event, selector: string) =>
  (event.currentTarget as HTMLElement).closest<E>(selector);

export function closePopup(event: Event): void {
  around(event, "[popover]")?.hidePopover();
}

export function closeDialog(event: Event): void {
  around<HTMLDialogElement>(event, "dialog")?.close();
}
