// Makes a text field grow with its text, for browsers without `field-sizing` in CSS.

import type { Attachment } from "svelte/attachments";

export function growWithText(text: () => string): Attachment<HTMLTextAreaElement> {
  return (field) => {
    void text();
    if (CSS.supports("field-sizing", "content")) return;
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  };
}
