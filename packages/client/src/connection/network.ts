import type { NetworkSource } from "../types.js";

/** What a browser tells. Elsewhere there is nobody to look, and nothing that tells of the network. */
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

/** Whether there is a page, or a worker of one, to connect for. A server that renders pages has neither. */
export const hasPage = (): boolean => "document" in globalThis || "importScripts" in globalThis;
