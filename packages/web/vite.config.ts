import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import { compress } from "./build/compress.js";
import { sdk } from "./build/sdk.js";

/** Where `npm run dev` finds a server: `switchboard dev`, unless told otherwise. */
const server = process.env["SWITCHBOARD"] ?? "http://127.0.0.1:9501";

/** What has `light-dark()` and popovers: nothing is translated for older ones. */
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
      // The policy forbids inline scripts and `data:` where it can.
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
    },
    server: {
      proxy: {
        "/v1": {
          target: server,
          ws: true,
          changeOrigin: true,
          // The server lets in its own pages only.
          configure: (proxy) => {
            proxy.on("proxyReq", (request) => request.setHeader("origin", server));
            proxy.on("proxyReqWs", (request) => request.setHeader("origin", server));
          },
        },
      },
    },
  };
});
