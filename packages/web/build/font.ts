// Makes the page load its font with its first styles, and not only when the first text is drawn.

import type { Plugin } from "vite";

/** `name`: the beginning of the font file's name. */
export function preloadFont(name: string): Plugin {
  return {
    name: "preload-font",
    apply: "build",
    transformIndexHtml: {
      order: "post",
      handler: (_, { bundle }) => {
        const file = Object.keys(bundle ?? {}).find((path) => path.includes(`/${name}`));
        if (!file) throw new Error(`there is no font ${name}`);
        // A font is loaded without credentials, and without this attribute the browser would load it twice.
        const attrs = { rel: "preload", href: `./${file}`, as: "font", type: "font/woff2", crossorigin: true };
        return [{ tag: "link", attrs, injectTo: "head" }];
      },
    },
  };
}
