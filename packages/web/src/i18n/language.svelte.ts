// The page's language: its texts, and the formats of times and lists.

import {
  fillPlaceholders,
  type Catalogue,
  type English,
  type Key,
  type PlaceholderNames,
  type PlaceholderValues,
} from "./catalogue.js";
import type { LauncherTexts } from "../launcher/texts.js";
import { dayDistance } from "./day.js";
import { en } from "./en.js";

/** The first English texts are part of the page's script; the others are loaded on demand. */
const CATALOGUES: Record<string, () => Promise<Catalogue>> = {
  en: async () => ({ ...en, ...(await import("./en-later.js")).later }),
  de: async () => (await import("./de.js")).de,
};

/** A page's own texts by language: some of them, or all texts of a language that the app does not have. */
export type OwnTexts = Readonly<Record<string, Partial<Catalogue & LauncherTexts>>>;

/** All languages, with their own names. */
export const LANGUAGES = { en: "English", de: "Deutsch" } as const;

/** The first available language of `wanted`. */
export function choose(wanted: readonly string[], own: OwnTexts = {}): string {
  for (const tag of wanted) {
    const base = tag.toLowerCase().split("-")[0]!;
    if (Object.hasOwn(CATALOGUES, base) || Object.hasOwn(own, base)) return base;
  }
  return "en";
}

type PlaceholderArguments<K extends Key> = [PlaceholderNames<English[K]>] extends [never]
  ? []
  : [values: PlaceholderValues<K>];

export class Language {
  #catalogue = $state.raw<Partial<Catalogue>>(en);
  #tag = $state.raw("en");
  /** The language with its region, which determines date formats. */
  #locale = $derived(navigator.languages.find((tag) => tag.split("-")[0] === this.#tag) ?? this.#tag);
  #plural = $derived(new Intl.PluralRules(this.#tag));
  #number = $derived(new Intl.NumberFormat(this.#locale));
  #time = $derived(new Intl.DateTimeFormat(this.#locale, { hour: "numeric", minute: "2-digit" }));
  #weekday = $derived(new Intl.DateTimeFormat(this.#locale, { weekday: "short" }));
  #date = $derived(new Intl.DateTimeFormat(this.#locale, { day: "numeric", month: "short" }));
  #dateOfYear = $derived(new Intl.DateTimeFormat(this.#locale, { day: "numeric", month: "short", year: "numeric" }));
  #day = $derived(
    new Intl.DateTimeFormat(this.#locale, { weekday: "long", day: "numeric", month: "long", year: "numeric" }),
  );
  #full = $derived(new Intl.DateTimeFormat(this.#locale, { dateStyle: "full", timeStyle: "medium" }));
  #relative = $derived(new Intl.RelativeTimeFormat(this.#locale, { numeric: "auto" }));
  #list = $derived(new Intl.ListFormat(this.#locale, { type: "conjunction", style: "narrow" }));

  /** The value of the `lang` attribute. */
  get tag(): string {
    return this.#tag;
  }

  /** Switches to the first available language of `wanted`, once its catalogue is loaded. */
  async use(wanted: readonly string[], own?: OwnTexts): Promise<void> {
    const tag = choose(wanted, own);
    const catalogue = await (CATALOGUES[tag] ?? CATALOGUES["en"]!)();
    this.#catalogue = { ...catalogue, ...own?.[tag] };
    this.#tag = tag;
  }

  // An arrow function, so that components can destructure `t`.
  readonly t = <K extends Key>(key: K, ...[values]: PlaceholderArguments<K>): string =>
    fillPlaceholders(this.#catalogue[key] ?? "", values ?? {}, this.#plural, this.#number);

  number(value: number): string {
    return this.#number.format(value);
  }

  list(items: readonly string[]): string {
    return this.#list.format(items);
  }

  /** Formats the time of day. */
  time(at: string): string {
    return this.#time.format(new Date(at));
  }

  /** Formats the full date and time. */
  full(at: string): string {
    return this.#full.format(new Date(at));
  }

  /** Formats a time for lists: the time of day if it is today, the weekday within a week, otherwise the date. */
  brief(at: string, now = new Date()): string {
    const date = new Date(at);
    const days = dayDistance(date, now);
    if (days <= 0) return this.#time.format(date);
    if (days < 7) return this.#weekday.format(date);
    return (date.getFullYear() === now.getFullYear() ? this.#date : this.#dateOfYear).format(date);
  }

  /** The label of the line above the messages of a day, such as "Today". */
  day(at: string, now = new Date()): string {
    const date = new Date(at);
    const days = dayDistance(date, now);
    if (days === 0) return this.t("today");
    if (days === 1) return this.t("yesterday");
    return this.#day.format(date);
  }

  /** The time since `at`, in the largest unit that is not zero. */
  ago(at: string, now = Date.now()): string {
    const seconds = Math.max(0, (now - Date.parse(at)) / 1000);
    if (seconds < 60) return this.#relative.format(0, "second");
    if (seconds < 3600) return this.#relative.format(-Math.floor(seconds / 60), "minute");
    if (seconds < 86_400) return this.#relative.format(-Math.floor(seconds / 3600), "hour");
    if (seconds < 7 * 86_400) return this.#relative.format(-Math.floor(seconds / 86_400), "day");
    return this.brief(at, new Date(now));
  }
}
