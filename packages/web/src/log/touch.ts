// Gestures on a message: a long press opens its menu, a swipe along the line replies. `contextmenu` would not do for the
// long press, because Safari on iOS does not fire it.

import type { Attachment } from "svelte/attachments";

/** How long a finger stays down for a long press. */
const HOLD_MS = 450;
/** A finger that has moved further than this scrolls or swipes, and does not press. */
const SLOP_PX = 10;
/** How far the finger must have swiped for a reply, and how far the message follows it. */
const SWIPE_PX = 56;
const MAX_SWIPE_PX = 76;

export interface Gestures {
  /** Called when the finger is lifted after a long press: a popup that opened earlier would be closed by that. */
  onhold: () => void;
  /** Called after a swipe; absent if the user may not reply. */
  onswipe: (() => void) | undefined;
}

/** Shows with a short vibration that the gesture is complete, where the device has one. */
const vibrateBriefly = () => navigator.vibrate?.(10);

export function gestures({ onhold, onswipe }: Gestures): Attachment<HTMLElement> {
  return (element) => {
    let start: { x: number; y: number } | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let state: "waiting" | "held" | "swiping" | "over" = "over";
    let along = 0;

    function cancelGesture(): void {
      clearTimeout(timer);
      element.classList.remove("held", "swiping");
      element.style.translate = "";
      state = "over";
      along = 0;
    }

    function onTouchStart(event: TouchEvent): void {
      cancelGesture();
      if (event.touches.length !== 1) return;
      start = { x: event.touches[0]!.clientX, y: event.touches[0]!.clientY };
      state = "waiting";
      timer = setTimeout(() => {
        state = "held";
        element.classList.add("held");
        vibrateBriefly();
      }, HOLD_MS);
    }

    function onTouchMove(event: TouchEvent): void {
      if (!start || state === "over" || state === "held") return;
      const touch = event.touches[0]!;
      const [x, y] = [touch.clientX - start.x, touch.clientY - start.y];
      if (state === "waiting") {
        if (Math.hypot(x, y) < SLOP_PX) return;
        clearTimeout(timer);
        state = onswipe && Math.abs(x) > 2 * Math.abs(y) ? "swiping" : "over";
      }
      if (state !== "swiping") return;
      const forward = getComputedStyle(element).direction === "rtl" ? -x : x;
      const before = along;
      along = Math.min(MAX_SWIPE_PX, Math.max(0, forward));
      element.style.translate = `${x < 0 ? -along : along}px`;
      element.classList.toggle("swiping", along >= SWIPE_PX);
      if (before < SWIPE_PX && along >= SWIPE_PX) vibrateBriefly();
    }

    function onTouchEnd(event: TouchEvent): void {
      const [done, swiped] = [state, along >= SWIPE_PX];
      cancelGesture();
      if (done === "waiting" || done === "over") return;
      // No click follows, which would open a link or a quote.
      if (event.cancelable) event.preventDefault();
      if (done === "held") onhold();
      else if (swiped) onswipe?.();
    }

    /** A long press opens no menu of the browser. */
    const contextmenu = (event: MouseEvent) => {
      if ((event as PointerEvent).pointerType === "touch") event.preventDefault();
    };

    element.addEventListener("touchstart", onTouchStart, { passive: true });
    element.addEventListener("touchmove", onTouchMove, { passive: true });
    element.addEventListener("touchend", onTouchEnd);
    element.addEventListener("touchcancel", cancelGesture);
    element.addEventListener("contextmenu", contextmenu);
    return () => {
      cancelGesture();
      element.removeEventListener("touchstart", onTouchStart);
      element.removeEventListener("touchmove", onTouchMove);
      element.removeEventListener("touchend", onTouchEnd);
      element.removeEventListener("touchcancel", cancelGesture);
      element.removeEventListener("contextmenu", contextmenu);
    };
  };
}
