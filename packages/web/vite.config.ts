import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import { rewriteOriginTo } from "./build/origin.js";
import { compress } from "./build/compress.js";
import { sdk } from "./build/sdk.js";

/** The server that `npm run dev` uses; by default a local `switchboard dev`. */
const server = process.env["SWITCHBOARD"] ?? "http://127.0.0.1:9501";

const rewriteOrigin = rewriteOriginTo(server);

/** Browsers with `light-dark()` and popovers; there is no fallback for older ones. */
const browsers = ["chrome123", "edge123", "firefox128", "safari17.5"];

export default defineConfig(({ mode }) => {
  const element = mode === "element";
  return {
    // Relative addresses, because a proxy may serve the page below a path.
    base: "./",
    publicDir: element ? false : "static",
    plugins: [svelte(), !element && sdk(), compress()],
    build: {
      target: browsers,
      emptyOutDir: !element,
      // The content security policy forbids inline scripts and `data:`, except for images.
      assetsInlineLimit: 0,
      modulePreload: { polyfill: false },
      reportCompressedSize: false,
      ...(element && {
        lib: {
          entry: "src/element.ts",
          formats: ["iife"],
          name: "SwitchboardChat",
          fileName: () => "switchboard-chat.js",
        },
        rolldownOptions: { output: { codeSplitting: false } },
      }),
      // One script for the first screen, which compresses better than two.
      ...(!element && {
        rolldownOptions: { output: { codeSplitting: { groups: [{ name: "index", tags: ["$initial"] }] } } },
      }),
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
