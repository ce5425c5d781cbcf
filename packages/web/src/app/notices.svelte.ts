// Error messages, each shown until the user closes it or the next one comes.

import { ChatError } from "@switchboard/client";
import type { Key } from "../i18n/catalogue.js";
import type { Language } from "../i18n/language.svelte.js";

export class Notices {
  #text = $state.raw("");
  #language: Language;

  constructor(language: Language) {
    this.#language = language;
  }

  get text(): string {
    return this.#text;
  }

  /** The text that explains an error to the user, in the user's language. */
  explain(error: unknown): string {
    const { t } = this.#language;
    const code = error instanceof ChatError ? error.code : "";
    // The application gives its reason in the words and the language of its choice.
    if (code === "refused") return (error as ChatError).message;
    const { permission } = error as Partial<ChatError>;
    const key = permission ? `forbid_${permission}` : `fail_${code}`;
    if (EXPLAINED.has(key)) return t(key as "fail_offline");
    return t("failUnknown", { reason: error instanceof Error ? error.message : String(error) });
  }

  show(error: unknown): void {
    this.showText(this.explain(error));
  }

  showText(text: string): void {
    this.#text = text;
  }

  dismiss(): void {
    this.#text = "";
  }

  /** Shows the error if `action` fails. */
  showFailure(action: Promise<unknown>): void {
    action.catch((error: unknown) => this.show(error));
  }
}

const EXPLAINED: ReadonlySet<string> = new Set<Key>([
  "fail_offline",
  "fail_not_found",
  "fail_forbidden",
  "fail_already_exists",
  "fail_rate_limited",
  "fail_too_large",
  "fail_unavailable",
  "fail_expired",
  "fail_storage",
  "fail_banned",
  "forbid_create_rooms",
  "forbid_public_rooms",
  "forbid_invite",
  "forbid_contact",
]);
