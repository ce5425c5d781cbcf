// What went wrong, told for a while.

import { ChatError } from "@switchboard/client";
import type { Key } from "../i18n/catalogue.js";
import type { Language } from "../i18n/language.svelte.js";

/** Milliseconds; long enough to be read twice. */
const SHOWN = 8_000;

export class Notices {
  #text = $state.raw("");
  #language: Language;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(language: Language) {
    this.#language = language;
  }

  get text(): string {
    return this.#text;
  }

  /** A failure in words. */
  explain(error: unknown): string {
    const { t } = this.#language;
    const code = error instanceof ChatError ? error.code : "";
    const key = `fail_${code}`;
    if (KNOWN.has(key)) return t(key as "fail_offline");
    return t("failUnknown", { reason: error instanceof Error ? error.message : String(error) });
  }

  tell(error: unknown): void {
    this.#text = this.explain(error);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.dismiss(), SHOWN);
  }

  dismiss(): void {
    clearTimeout(this.#timer);
    this.#text = "";
  }

  /** Tells of it if this fails. */
  watch(action: Promise<unknown>): void {
    action.catch((error: unknown) => this.tell(error));
  }
}

const KNOWN: ReadonlySet<string> = new Set<Key>([
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
]);
