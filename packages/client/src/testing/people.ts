// The names and pictures of users. Every user sees those of all others, as with `directory = "all"`.

import type { FindUsers, Profile, SetProfile, UserId, Users } from "../protocol.js";
import type { ConnectedClient } from "./world.js";

/** A text without differences of case and accents. */
const foldText = (text: string) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

export class People {
  #profiles = new Map<UserId, Profile>();

  /** Changes a user's own profile, and sends it to the connections that follow the user. */
  change(user: UserId, fields: SetProfile, clients: Iterable<ConnectedClient>): object {
    const before = this.#profileOf(user);
    const kept = Object.entries({ ...before, ...fields }).filter(([, value]) => value !== null);
    const after = Object.fromEntries(kept) as unknown as Profile;
    if (JSON.stringify(after) === JSON.stringify(before)) return { user, version: before.version };
    const profile = { ...after, version: before.version + 1 };
    this.#profiles.set(user, profile);
    for (const client of clients) if (client.followed.has(user)) client.push({ type: "profile", ...profile });
    return { user, version: profile.version };
  }

  /** Answers `users`. */
  page({ users }: Users): object {
    return { users: users.map((user) => this.#profileOf(user)), more: false };
  }

  /** Answers `find_users`. */
  find({ query }: FindUsers, limit: number): object {
    const wanted = foldText(query);
    const found = [...this.#profiles.values()].filter(({ user, name = "" }) =>
      [user, ...foldText(name).split(/(?<=\P{L})(?=\p{L})/u)].some((word) => foldText(word).startsWith(wanted)),
    );
    return { users: found.slice(0, limit), more: found.length > limit };
  }

  #profileOf(user: UserId): Profile {
    return this.#profiles.get(user) ?? { user, version: 0 };
  }
}
