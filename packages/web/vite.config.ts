import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import { rewriteOriginTo } from "./build/origin.js";
import { compress } from "./build/compress.js";
import { preloadFont } from "./build/font.js";
import { sdk } from "./build/sdk.js";

/** The server that `npm run dev` uses; by default a local `switchboard dev`. */
const server = process.env["SWITCHBOARD"] ?? "http://127.0.0.1:9501";

const rewriteOrigin = rewriteOriginTo(server);

/** Browsers with `light-dark()` and popovers; there is no fallback for older ones. */
const browsers = ["chrome123", "edge123", "firefox128", "safari17.5"];

/** By mode, the source and the name of a script for other pages. */
const SCRIPTS: Record<string, { entry: string; name: string } | undefined> = {
  element: { entry: "src/element.ts", name: "switchboard-chat" },
  launcher: { entry: "src/launcher/launcher.ts", name: "switchboard-launcher" },
};

export default defineConfig(({ mode }) => {
  /** The scripts that other pages load are built one by one, so that each has only what it needs. */
  const script = SCRIPTS[mode];
  return {
    // Relative addresses, because a proxy may serve the page below a path.
    base: "./",
    publicDir: script ? false : "static",
    plugins: [svelte(), !script && sdk(), !script && preloadFont("inter-latin-wght"), compress()],
    build: {
      target: browsers,
      emptyOutDir: !script,
      // The content security policy forbids inline scripts and `data:`, except for images.
      assetsInlineLimit: 0,
      modulePreload: script ? false : { polyfill: false },
      reportCompressedSize: false,
      rolldownOptions: {
        ...(script && { input: script.entry }),
        output: {
          ...(script && { entryFileNames: `${script.name}.js` }),
          // One script for the first screen, which compresses better than two. Its name changes with its content, also for
          // a page that loads it by a name that does not change.
          ...(mode !== "launcher" && {
            codeSplitting: { groups: [{ name: script ? "element" : "index", tags: ["$initial"] }] },
          }),
        },
      },
    },
    server: {
      proxy: {
        "/v1": {
          target: server,
          ws: true,
          changeOrigin: true,
          // The server accepts only pages of its own origin. A request of any other page keeps its origin, so that the
          // server refuses it, as it would without this proxy.
          configure: (proxy) => {
            proxy.on("proxyReq", rewriteOrigin);
            proxy.on("proxyReqWs", rewriteOrigin);
          },
        },
      },
    },
  };
});
