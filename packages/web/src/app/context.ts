// The Svelte context of all components.

import { createContext } from "svelte";
import type { Desk } from "./desk.svelte.js";

/** The chat on the screen. */
export const [getDesk, setDesk] = createContext<Desk>();
