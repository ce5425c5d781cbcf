// Closes the popup or dialog that contains an event's element.

const around = <E extends HTMLElement>(event: Event, selector: string) =>
  (event.currentTarget as HTMLElement).closest<E>(selector);

export function closePopup(event: Event): void {
  around(event, "[popover]")?.hidePopover();
}

export function closeDialog(event: Event): void {
  around<HTMLDialogElement>(event, "dialog")?.close();
}
