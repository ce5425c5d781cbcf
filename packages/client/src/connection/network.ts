import type { NetworkSource } from "../types.js";

/** The network events of a browser. On other platforms the app counts as visible and there are no events. */
export const browserNetwork: NetworkSource = {
  visible: () => globalThis.document?.visibilityState !== "hidden",
  subscribe(listener) {
    const { document } = globalThis;
    const isOnline = () => listener("online");
    const isVisible = () => document?.visibilityState !== "hidden" && listener("visible");
    globalThis.addEventListener?.("online", isOnline);
    globalThis.addEventListener?.("pageshow", isVisible);
    document?.addEventListener("visibilitychange", isVisible);
    return () => {
      globalThis.removeEventListener?.("online", isOnline);
      globalThis.removeEventListener?.("pageshow", isVisible);
      document?.removeEventListener("visibilitychange", isVisible);
    };
  },
};

/** Whether the code runs in a page or in a worker of a page. A server that renders pages is neither. */
export const hasPage = (): boolean => "document" in globalThis || "importScripts" in globalThis;
