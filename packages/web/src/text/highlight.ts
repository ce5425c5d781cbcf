// Splits code into tokens for colours. Loaded on demand.

import { parse } from "sugar-high/core";
import * as css from "sugar-high/lang/css";
import * as go from "sugar-high/lang/go";
import * as json from "sugar-high/lang/json";
import * as python from "sugar-high/lang/python";
import * as rust from "sugar-high/lang/rust";
import * as shell from "sugar-high/lang/shell";
import * as sql from "sugar-high/lang/sql";
import * as typescript from "sugar-high/lang/typescript";

export interface Token {
  /** The kind of token that has a colour of its own; absent for all others. */
  type?: "keyword" | "string" | "class" | "entity" | "comment";
  value: string;
}

/** Languages by the name after the fence. */
const LANGUAGES: Record<string, object> = {
  css,
  go,
  json,
  py: python,
  python,
  rs: rust,
  rust,
  bash: shell,
  sh: shell,
  shell,
  sql,
  js: typescript,
  javascript: typescript,
  jsx: typescript,
  ts: typescript,
  typescript,
  tsx: typescript,
};

/** Longest code that is highlighted: the time grows with the length. */
const MAX_LENGTH = 20_000;

const COLOURED_TOKEN_TYPES: readonly string[] = ["keyword", "string", "class", "entity", "comment"];

/** The tokens of a code; `undefined` if the language is unknown or the code is too long. */
export function highlight(code: string, language: string): Token[] | undefined {
  const name = language.toLowerCase();
  if (!Object.hasOwn(LANGUAGES, name) || code.length > MAX_LENGTH) return undefined;
  return parse(code, LANGUAGES[name]).lines.flatMap(({ tokens }, index) => [
    ...(index > 0 ? [{ value: "\n" }] : []),
    ...tokens.map(({ type, value }) =>
      COLOURED_TOKEN_TYPES.includes(type) ? { type: type as NonNullable<Token["type"]>, value } : { value },
    ),
  ]);
}
