// The Svelte context of all components.

import { createContext } from "svelte";
import type { AppState } from "./app-state.svelte.js";

/** Functions with which components get and set the state of the chat on the screen. */
export const [getAppState, setAppState] = createContext<AppState>();
