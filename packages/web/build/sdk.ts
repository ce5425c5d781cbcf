// The SDK for pages without a bundler, served beside the page as `switchboard.js`.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { Plugin } from "vite";

export function sdk(): Plugin {
  return {
    name: "sdk",
    apply: "build",
    async generateBundle() {
      const path = createRequire(import.meta.url).resolve("@switchboard/client/switchboard.js");
      // The server does not serve source maps.
      const source = (await readFile(path, "utf8")).replace(/\n\/\/# sourceMappingURL=.*/, "");
      this.emitFile({ type: "asset", fileName: "switchboard.js", source });
    },
  };
}
