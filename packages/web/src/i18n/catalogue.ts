// The type of a language's texts, and how to fill in their placeholders. The English catalogue defines the keys and the
// placeholders; the compiler reports what another language lacks.

import type { en } from "./en.js";
import type { later } from "./en-later.js";

/** All English texts. */
export type English = typeof en & typeof later;

/** A text in the plural forms of its language; `{n}` is the number. */
export type PluralForms = { readonly other: string } & { readonly [category in Intl.LDMLPluralRule]?: string };
export type CatalogueText = string | PluralForms;

export type Key = keyof English;
export type Catalogue = { readonly [K in Key]: English[K] extends string ? string : PluralForms };

type PlaceholdersIn<S> = S extends `${string}{${infer Name}}${infer Rest}` ? Name | PlaceholdersIn<Rest> : never;
/** The names of the placeholders in a text: `"user" | "n"` for `{user} and {n} more`. */
export type PlaceholderNames<E> = E extends string ? PlaceholdersIn<E> : PlaceholdersIn<E[keyof E]> | "n";

type PlaceholderValue<Name> = Name extends "n" ? number : string;
export type PlaceholderValues<K extends Key> = { [Name in PlaceholderNames<English[K]>]: PlaceholderValue<Name> };

/** Characters beyond the Latin letters. Some are written from right to left, which would affect the surrounding text. */
const NON_LATIN = /[^\u0020-\u024f]/;

/** Encloses a value in marks, so that it does not mix with the text around it, as "#" at the beginning of a name would. */
export const isolate = (value: string): string => `\u2068${value}\u2069`;

/** Encloses a value in marks that keep its direction (left to right or right to left) from affecting the text around it. */
export const isolateDirection = (value: string): string => (NON_LATIN.test(value) ? isolate(value) : value);

/** Fills in the placeholders of a text. A value that is written from right to left does not affect the text around it. */
export function fillPlaceholders(
  entry: CatalogueText,
  values: Record<string, string | number>,
  plural: Intl.PluralRules,
  number: Intl.NumberFormat,
): string {
  const text = typeof entry === "string" ? entry : (entry[plural.select(Number(values["n"]))] ?? entry.other);
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = values[name];
    return typeof value === "number" ? number.format(value) : isolateDirection(value ?? "");
  });
}
