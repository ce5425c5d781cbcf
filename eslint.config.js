// What every JavaScript, TypeScript and Svelte file of the project keeps. Prettier does the format.

import js from "@eslint/js";
import svelte from "eslint-plugin-svelte";
import globals from "globals";
import ts from "typescript-eslint";

/** Files that a TypeScript project knows, so that rules may ask for types. */
const typed = ["packages/client/src/**/*.ts", "packages/web/{src,test,build}/**/*.ts"];

export default ts.config(
  { ignores: ["**/dist/", "target/", "packages/client/src/protocol.ts", "docs/", "**/*.d.ts"] },
  js.configs.recommended,
  ts.configs.recommended,
  svelte.configs.recommended,
  {
    languageOptions: { globals: { ...globals.browser, ...globals.node } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: "error",
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all", ignoreReadBeforeAssign: true }],
      // It does not count `??=` as a use. TypeScript reports the unused ones.
      "no-unused-private-class-members": "off",
      // What looks at a text from outside names these characters, as escapes.
      "no-control-regex": "off",
      "no-misleading-character-class": ["error", { allowEscape: true }],
      // A class inside a method needs a name for the object around it.
      "@typescript-eslint/no-this-alias": "off",
      "@typescript-eslint/consistent-type-imports": "error",
      // `const { to, time, ...rest }` leaves out what it names.
      "@typescript-eslint/no-unused-vars": ["error", { ignoreRestSiblings: true, argsIgnorePattern: "^_" }],
    },
  },
  { files: ["**/*.cjs"], rules: { "@typescript-eslint/no-require-imports": "off" } },
  {
    files: typed,
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", package: "node:test", name: ["test", "describe"] }] },
      ],
      "@typescript-eslint/no-misused-promises": ["error", { checksVoidReturn: { arguments: false } }],
    },
  },
  {
    files: ["**/*.svelte", "**/*.svelte.ts"],
    languageOptions: { parserOptions: { parser: ts.parser } },
    // Svelte's own rule knows that `$props` is taken apart with `let`.
    rules: {
      "prefer-const": "off",
      "svelte/prefer-const": ["error", { destructuring: "all", ignoreReadBeforeAssign: true }],
      // What the compiler warns of, accessibility included.
      "svelte/valid-compile": "error",
      // State is `$state.raw` and replaced; a `Date`, `Set` or `URLSearchParams` is a value inside one function.
      "svelte/prefer-svelte-reactivity": "off",
    },
  },
);
