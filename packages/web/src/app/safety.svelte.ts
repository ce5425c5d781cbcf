// Blocked users and reports. The code for them is not part of the first screen.

import type { BlockedUser, Moderation } from "@switchboard/client/moderation";
import type { AppState } from "./app-state.svelte.js";

export class Safety {
  #blocked = $state.raw<readonly BlockedUser[]>([]);
  #moderation: Promise<Moderation> | undefined;
  #appState: Pick<AppState, "status" | "chat">;

  constructor(appState: Pick<AppState, "status" | "chat">) {
    this.#appState = appState;
  }

  /** Whether the server lets users `block` or `report` each other. */
  has(feature: "block" | "report"): boolean {
    const { status, chat } = this.#appState;
    return status.state === "online" && chat.features.includes(feature);
  }

  /** The blocked users; empty until they are loaded. */
  get blocked(): readonly BlockedUser[] {
    if (this.has("block")) void this.load();
    return this.#blocked;
  }

  isBlocked(user: string): boolean {
    return this.blocked.some((blocked) => blocked.user === user);
  }

  async setBlocked(user: string, on: boolean): Promise<void> {
    const moderation = await this.load();
    await (on ? moderation.block(user) : moderation.unblock(user));
  }

  /** The SDK's part for safety. */
  load(): Promise<Moderation> {
    return (this.#moderation ??= import("@switchboard/client/moderation").then(({ moderation }) => {
      const loaded = moderation(this.#appState.chat);
      loaded.blocked.subscribe((blocked) => (this.#blocked = blocked ?? []));
      return loaded;
    }));
  }
}
