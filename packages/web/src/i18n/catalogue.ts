// What a catalogue of texts is, and how a text is made of its entry. The English one is the model: another language has
// the same keys, each with the same names in braces, and the compiler says what is missing.

import type { en } from "./en.js";

/** A text in as many forms as the language has for numbers; `{n}` is the number. */
export type Forms = { readonly other: string } & { readonly [category in Intl.LDMLPluralRule]?: string };
export type Entry = string | Forms;

export type Key = keyof typeof en;
export type Catalogue = { readonly [K in Key]: (typeof en)[K] extends string ? string : Forms };

type NamesIn<S> = S extends `${string}{${infer Name}}${infer Rest}` ? Name | NamesIn<Rest> : never;
/** The names in braces of an entry. */
export type Names<E> = E extends string ? NamesIn<E> : NamesIn<E[keyof E]>;

type Value<Name> = Name extends "n" ? number : string;
export type Values<K extends Key> = { [Name in Names<(typeof en)[K]>]: Value<Name> };

/** Only a value that may be written from right to left can disturb the text around it. */
const FOREIGN = /[^\u0020-\u024f]/;

/** A text that keeps its direction to itself. */
export const isolated = (value: string): string => (FOREIGN.test(value) ? `\u2068${value}\u2069` : value);

/** A text with its names replaced; values are put in between marks that keep their direction to themselves. */
export function compose(
  entry: Entry,
  values: Record<string, string | number>,
  plural: Intl.PluralRules,
  number: Intl.NumberFormat,
): string {
  const text = typeof entry === "string" ? entry : (entry[plural.select(Number(values["n"]))] ?? entry.other);
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = values[name];
    return typeof value === "number" ? number.format(value) : isolated(value ?? "");
  });
}
