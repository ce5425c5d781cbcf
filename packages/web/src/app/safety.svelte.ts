// The users whom this user has blocked. The code that loads them is not part of the first screen.

import type { Chat } from "@switchboard/client";
import type { BlockedUser, Moderation } from "@switchboard/client/moderation";
import type { AppState } from "./app-state.svelte.js";

export class Safety {
  #blocked = $state.raw<readonly BlockedUser[]>([]);
  #moderation: Promise<Moderation> | undefined;
  #appState: Pick<AppState, "status" | "chat">;

  constructor(appState: Pick<AppState, "status" | "chat">) {
    this.#appState = appState;
  }

  /** Whether the server lets users block each other. */
  get available(): boolean {
    const { status, chat } = this.#appState;
    return status.state === "online" && hasBlock(chat);
  }

  /** The blocked users; empty until they are loaded. */
  get blocked(): readonly BlockedUser[] {
    if (this.available) void this.#load();
    return this.#blocked;
  }

  isBlocked(user: string): boolean {
    return this.blocked.some((blocked) => blocked.user === user);
  }

  async setBlocked(user: string, on: boolean): Promise<void> {
    const moderation = await this.#load();
    await (on ? moderation.block(user) : moderation.unblock(user));
  }

  #load(): Promise<Moderation> {
    return (this.#moderation ??= import("@switchboard/client/moderation").then(({ moderation }) => {
      const loaded = moderation(this.#appState.chat);
      loaded.blocked.subscribe((blocked) => (this.#blocked = blocked ?? []));
      return loaded;
    }));
  }
}

const hasBlock = (chat: Chat) => chat.features.includes("block");
