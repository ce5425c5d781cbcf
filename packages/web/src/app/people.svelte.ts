// The names and pictures of users. They are loaded after the first paint: until then a user has the id alone.

import type { Chat } from "@switchboard/client";
import type { Profile, Profiles } from "@switchboard/client/profiles";

export class People {
  #known = $state<Record<string, Profile>>({});
  #asked = new Set<string>();
  #profiles: Promise<Profiles> | undefined;
  #chat: Chat;

  constructor(chat: Chat) {
    this.#chat = chat;
  }

  /** The name of a user for people; the id if there is none, or until it is known. */
  name(user: string): string {
    return this.of(user)?.name ?? user;
  }

  /** The profile of a user; `undefined` until it is known. */
  of(user: string): Profile | undefined {
    if (user && !this.#asked.has(user)) {
      this.#asked.add(user);
      void this.load().then((profiles) => profiles.of(user).subscribe((profile) => (this.#known[user] = profile)));
    }
    return this.#known[user];
  }

  load(): Promise<Profiles> {
    return (this.#profiles ??= import("@switchboard/client/profiles").then(({ profiles }) => profiles(this.#chat)));
  }
}
