// Blocked users and reports. The code for them is not part of the first screen.

import type { BlockedUser, Moderation } from "@switchboard/client/moderation";
import type { AppState } from "./app-state.svelte.js";

type Needed = Pick<AppState, "status" | "chat" | "notices" | "language">;

export class Safety {
  #blocked = $state.raw<readonly BlockedUser[]>([]);
  #moderation: Promise<Moderation> | undefined;
  #appState: Needed;

  constructor(appState: Needed) {
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

  isBlocked(user: string | undefined): boolean {
    return this.blocked.some((blocked) => blocked.user === user);
  }

  async setBlocked(user: string, on: boolean): Promise<void> {
    const moderation = await this.load();
    await (on ? moderation.block(user) : moderation.unblock(user));
  }

  /** The SDK's part for safety. */
  load(): Promise<Moderation> {
    return (this.#moderation ??= import("./moderation.js").then(({ startModeration }) =>
      startModeration(this.#appState, (blocked) => (this.#blocked = blocked)),
    ));
  }
}
