// The icons of the first screen as SVG paths, for a view box of 24 by 24 and a stroke width of 1.75. `menu-shapes.ts` adds others.

import type { MenuShape } from "./menu-shapes.js";

const FIRST_SHAPES = {
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  more: "M5 12a.6.6 0 101.2 0 .6.6 0 10-1.2 0M11.4 12a.6.6 0 101.2 0 .6.6 0 10-1.2 0M17.8 12a.6.6 0 101.2 0 .6.6 0 10-1.2 0",
  down: "M12 5v14M6 13l6 6 6-6",
  send: "M12 19V5M6 11l6-6 6 6",
  smile: "M12 21a9 9 0 100-18 9 9 0 000 18zM8.5 14.5c.9 1.2 2.1 1.8 3.5 1.8s2.6-.6 3.5-1.8M9 9.8h.01M15 9.8h.01",
  reply: "M9.5 6L4 11.5 9.5 17M4.5 11.5H14a6 6 0 016 6v1",
  edit: "M4.5 19.5l1-4L16.2 4.8a1.8 1.8 0 012.5 0l.5.5a1.8 1.8 0 010 2.5L8.5 18.5l-4 1zM14.5 6.5l3 3",
  check: "M5 12.5l4.5 4.5L19 7.5",
  checks: "M2.5 12.5L7 17l8.5-9.5M11 16l1 1 9.5-9.5",
  clock: "M12 21a9 9 0 100-18 9 9 0 000 18zM12 7.5V12l3 2",
  warning: "M12 4L2.8 19.5h18.4L12 4zM12 10v4.5M12 17h.01",
  settings:
    "M4 7h9M17 7h3M4 17h3M11 17h9M15 9.5a2.5 2.5 0 100-5 2.5 2.5 0 000 5zM9 19.5a2.5 2.5 0 100-5 2.5 2.5 0 000 5z",
  search: "M10.5 17a6.5 6.5 0 100-13 6.5 6.5 0 000 13zM15.5 15.5L20 20",
} as const;

export type Shape = keyof typeof FIRST_SHAPES | MenuShape;

/** The path of each icon whose code is loaded. */
export const SHAPES: { [K in Shape]?: string } = FIRST_SHAPES;
