// The icons of menus and dialogs, which are loaded with the first of them.

import { SHAPES } from "./shapes.js";

const MENU_SHAPES = {
  copy: "M9 9h9.5v10.5H9zM15 9V4.5H5.5V15H9",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.3 10.5v5.5M13.7 10.5v5.5",
  people:
    "M9 11.5a3.5 3.5 0 100-7 3.5 3.5 0 000 7zM2.5 19.5c.5-3.2 3-5 6.5-5s6 1.8 6.5 5M16 5a3.2 3.2 0 010 6.2M18 14.8c2 .7 3.2 2.3 3.5 4.7",
  leave: "M14 4.5H5.5v15H14M10 12h10.5M17 8.5l3.5 3.5-3.5 3.5",
  flag: "M5.5 21V4h13l-3 4.5 3 4.5h-13",
  block: "M12 21a9 9 0 100-18 9 9 0 000 18zM5.7 5.7l12.6 12.6",
} as const;

export type MenuShape = keyof typeof MENU_SHAPES;

Object.assign(SHAPES, MENU_SHAPES);
