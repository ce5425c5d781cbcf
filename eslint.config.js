// The rules for every JavaScript, TypeScript and Svelte file of the project. Prettier checks the format.

import js from "@eslint/js";
import svelte from "eslint-plugin-svelte";
import globals from "globals";
import ts from "typescript-eslint";

/** Files that belong to a TypeScript project, so that rules can use their types. */
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
      // The rule does not count `??=` as a use, so TypeScript reports unused members.
      "no-unused-private-class-members": "off",
      // Code that checks texts of users contains control characters as escapes.
      "no-control-regex": "off",
      "no-misleading-character-class": ["error", { allowEscape: true }],
      // A class inside a method needs a variable for the outer `this`.
      "@typescript-eslint/no-this-alias": "off",
      "@typescript-eslint/consistent-type-imports": "error",
      // `const { to, time, ...rest }` is used to leave fields out, so `to` and `time` may be unused.
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
    // Svelte has its own rule, which allows `let` for destructuring `$props`.
    rules: {
      "prefer-const": "off",
      "svelte/prefer-const": ["error", { destructuring: "all", ignoreReadBeforeAssign: true }],
      // Reports the compiler's warnings, including those about accessibility.
      "svelte/valid-compile": "error",
      // State is `$state.raw` and is replaced as a whole; a `Date`, `Set` or `URLSearchParams` is only used inside one function.
      "svelte/prefer-svelte-reactivity": "off",
    },
  },
);
