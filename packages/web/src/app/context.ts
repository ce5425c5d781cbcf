// The Svelte context of all components.

import { createContext } from "svelte";
import type { AppState } from "./app-state.svelte.js";

/** The chat on the screen. */
export const [getAppState, setAppState] = createContext<AppState>();
