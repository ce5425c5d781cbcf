import assert from "node:assert/strict";
import { test } from "node:test";
import { fillPlaceholders, type CatalogueText } from "../src/i18n/catalogue.js";
import { dayDistance } from "../src/i18n/day.js";
import { de } from "../src/i18n/de.js";
import { en as first } from "../src/i18n/en.js";
import { later } from "../src/i18n/en-later.js";

const en = { ...first, ...later };

const textsOf = (entry: CatalogueText): string[] => (typeof entry === "string" ? [entry] : Object.values(entry));
const placeholdersOf = (entry: CatalogueText) =>
  [...new Set(textsOf(entry).flatMap((text) => text.match(/\{\w+\}/g) ?? []))].sort();

test("German has every text of English, with the same names and a form for each number", () => {
  assert.deepEqual(Object.keys(de).sort(), Object.keys(en).sort());
  const categories = new Intl.PluralRules("de").resolvedOptions().pluralCategories;
  for (const [key, entry] of Object.entries(en) as [keyof typeof en, CatalogueText][]) {
    const german: CatalogueText = de[key];
    assert.deepEqual(placeholdersOf(german), placeholdersOf(entry), key);
    assert.equal(typeof german, typeof entry, key);
    if (typeof german !== "string") assert.deepEqual(Object.keys(german).sort(), [...categories].sort(), key);
    for (const text of textsOf(german)) assert.ok(text.trim(), key);
  }
});

const substituted = (entry: CatalogueText, values: Record<string, string | number>) =>
  fillPlaceholders(entry, values, new Intl.PluralRules("en"), new Intl.NumberFormat("en"));

test("a text uses the plural form of its number", () => {
  assert.equal(substituted(en.newCount, { n: 1 }), "1 new message");
  assert.equal(substituted(en.newCount, { n: 1234 }), "1,234 new messages");
});

test("a value cannot change the direction of the surrounding text", () => {
  assert.equal(substituted("{user} is typing…", { user: "bob" }), "bob is typing…");
  assert.equal(substituted("{user}: {text}", { user: "bob", text: "שלום" }), "bob: \u2068שלום\u2069");
  assert.equal(substituted("{text}", { text: "\u202Ex" }), "\u2068\u202Ex\u2069");
  assert.equal(substituted("{text}", { text: "{user}" }), "{user}");
});

test("days are counted by the midnights between", () => {
  const dayAndHour = (day: number, hour: number) => new Date(2026, 2, day, hour);
  assert.equal(dayDistance(dayAndHour(28, 23), dayAndHour(29, 0)), 1);
  assert.equal(dayDistance(dayAndHour(29, 0), dayAndHour(29, 23)), 0);
  // A day on which the clock is put forward has 23 hours.
  assert.equal(dayDistance(dayAndHour(28, 12), dayAndHour(30, 12)), 2);
});
