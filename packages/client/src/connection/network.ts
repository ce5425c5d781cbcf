import type { NetworkSource } from "../types.js";

/** The network events of a browser. On other platforms the app counts as visible and there are no events. */
export const browserNetwork: NetworkSource = {
  visible: () => globalThis.document?.visibilityState !== "hidden",
  subscribe(listener) {
    const { document } = globalThis;
    const onOnline = () => listener("online");
    const onVisibilityChange = () => document?.visibilityState !== "hidden" && listener("visible");
    globalThis.addEventListener?.("online", onOnline);
    globalThis.addEventListener?.("pageshow", onVisibilityChange);
    document?.addEventListener("visibilitychange", onVisibilityChange);
    return () => {
      globalThis.removeEventListener?.("online", onOnline);
      globalThis.removeEventListener?.("pageshow", onVisibilityChange);
      document?.removeEventListener("visibilitychange", onVisibilityChange);
    };
  },
};

/** Whether the code runs in a page or in a worker of a page. A server that renders pages is neither. */
export const runsInPage = (): boolean => "document" in globalThis || "importScripts" in globalThis;
