// The language of the page: its texts, and how it writes times and lists.

import { compose, type Catalogue, type Key, type Names, type Values } from "./catalogue.js";
import { dayDistance } from "./day.js";
import { en } from "./en.js";

/** English comes with the page, the others when they are needed. */
const CATALOGUES: Record<string, () => Promise<Catalogue>> = {
  en: async () => en,
  de: async () => (await import("./de.js")).de,
};

/** Every language there is, by the name that it gives itself. */
export const LANGUAGES = { en: "English", de: "Deutsch" } as const;

/** The first of the wanted languages that there is. */
export function choose(wanted: readonly string[]): string {
  for (const tag of wanted) {
    const base = tag.toLowerCase().split("-")[0]!;
    if (base in CATALOGUES) return base;
  }
  return "en";
}

type Needed<K extends Key> = [Names<(typeof en)[K]>] extends [never] ? [] : [values: Values<K>];

export class Language {
  #catalogue = $state.raw<Catalogue>(en);
  #tag = $state.raw("en");
  /** With its region, which decides about the order of days and months. */
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

  /** What `lang` says. */
  get tag(): string {
    return this.#tag;
  }

  /** Changes to the first of these that there is. The texts stay as they are until its catalogue has come. */
  async use(wanted: readonly string[]): Promise<void> {
    const tag = choose(wanted);
    const catalogue = await CATALOGUES[tag]!();
    this.#catalogue = catalogue;
    this.#tag = tag;
  }

  // Arrow functions, so that components take `t` out of the object.
  readonly t = <K extends Key>(key: K, ...[values]: Needed<K>): string =>
    compose(this.#catalogue[key], values ?? {}, this.#plural, this.#number);

  number(value: number): string {
    return this.#number.format(value);
  }

  list(items: readonly string[]): string {
    return this.#list.format(items);
  }

  /** The time of day. */
  time(at: string): string {
    return this.#time.format(new Date(at));
  }

  /** Everything there is to say about a time. */
  full(at: string): string {
    return this.#full.format(new Date(at));
  }

  /** For a list: the time of day today, then a weekday, then a date. */
  brief(at: string, now = new Date()): string {
    const date = new Date(at);
    const days = dayDistance(date, now);
    if (days <= 0) return this.#time.format(date);
    if (days < 7) return this.#weekday.format(date);
    return (date.getFullYear() === now.getFullYear() ? this.#date : this.#dateOfYear).format(date);
  }

  /** A day, for the line between two. */
  day(at: string, now = new Date()): string {
    const date = new Date(at);
    const days = dayDistance(date, now);
    if (days === 0) return this.t("today");
    if (days === 1) return this.t("yesterday");
    return this.#day.format(date);
  }

  /** How long ago, in the largest unit that is not zero. */
  ago(at: string, now = Date.now()): string {
    const seconds = Math.max(0, (now - Date.parse(at)) / 1000);
    if (seconds < 60) return this.#relative.format(0, "second");
    if (seconds < 3600) return this.#relative.format(-Math.floor(seconds / 60), "minute");
    if (seconds < 86_400) return this.#relative.format(-Math.floor(seconds / 3600), "hour");
    if (seconds < 7 * 86_400) return this.#relative.format(-Math.floor(seconds / 86_400), "day");
    return this.brief(at, new Date(now));
  }
}
