// A field that grows with its text. Browsers that know `field-sizing` do so by the stylesheet alone.

import type { Attachment } from "svelte/attachments";

export function growing(text: () => string): Attachment<HTMLTextAreaElement> {
  return (field) => {
    void text();
    if (CSS.supports("field-sizing", "content")) return;
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  };
}
