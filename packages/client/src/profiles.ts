// The names and pictures of users: those that the server has, or those that the app looks up itself.

import { Store } from "./store.js";
import type { Chat, CommandOptions, Readable } from "./types.js";

/** Milliseconds for which users are collected before they are looked up. */
const LOOK_UP_DELAY_MS = 20;
/** The most users in one command, if the server has no limit for them. */
const DEFAULT_MAX_USERS = 50;
/** How many users are remembered whom nothing on the screen shows. */
const REMEMBERED_USERS = 1_000;
/** Milliseconds until a look-up that failed is tried again. */
const RETRY_DELAY_MS = 5_000;

/** What a user shows of themselves. */
export interface Profile {
  readonly user: string;
  /** The name for people. It is another person's text: show it isolated, for instance in `<bdi>`. */
  readonly name?: string;
  /** The URL of a picture. */
  readonly avatar?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  /** Grows with each change; 0 or absent without a profile. */
  readonly version?: number;
}

/** The fields of one's own profile that change; `null` removes one. */
export interface ProfileChange {
  name?: string | null;
  data?: Record<string, unknown> | null;
  avatar?: null;
}

export interface ProfilesOptions {
  /** Looks up users in place of the server. It may leave users out. */
  resolve?: (users: string[]) => Promise<readonly Profile[]>;
}

export interface Profiles {
  /** The profile of a user: the id alone until it is known. It is looked up while there are subscribers. */
  of(user: string): Readable<Profile>;
  /** Finds users by the beginning of a word of their name, or of their id; always asks the server. */
  find(query: string, options?: CommandOptions & { limit?: number }): Promise<readonly Profile[]>;
  /** Changes one's own profile, where the server allows it. */
  change(fields: ProfileChange, options?: CommandOptions): Promise<void>;
  /** Whether the server has profiles. */
  readonly available: boolean;
  /** Ends the look-ups. */
  close(): void;
}

type ProfileFrame = { readonly type: string } & Partial<Profile>;

/** The profiles of a chat's users. Make one for a chat. */
export function profiles(chat: Chat, { resolve }: ProfilesOptions = {}): Profiles {
  const knownProfiles = new Map<string, Profile>();
  const storeByUser = new Map<string, Store<Profile>>();
  const wantedUsers = new Set<string>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOnline = false;
  let isClosed = false;

  const hasFeature = () => chat.features.includes("profiles");

  const storeProfile = (profile: Profile) => {
    const before = knownProfiles.get(profile.user);
    // An answer may arrive after a change that it does not contain.
    if (before && (before.version ?? 0) > (profile.version ?? 0)) return;
    knownProfiles.set(profile.user, profile);
    storeByUser.get(profile.user)?.invalidate();
    forgetOldest();
  };

  const forgetOldest = () => {
    for (const user of knownProfiles.keys()) {
      if (knownProfiles.size <= REMEMBERED_USERS) return;
      if (!storeByUser.get(user)?.isSubscribed) {
        knownProfiles.delete(user);
        storeByUser.delete(user);
      }
    }
  };

  const fetchFromServer = async (users: string[]) => {
    const answer = await chat.command<{ users: Profile[] }>("users", { users });
    return answer.users;
  };

  const fetchWanted = async () => {
    timer = undefined;
    if (isClosed || (!resolve && (!isOnline || !hasFeature()))) return;
    const most = (chat.limits as { follow?: number } | undefined)?.follow ?? DEFAULT_MAX_USERS;
    const users = [...wantedUsers].slice(-most);
    if (!users.length) return;
    users.forEach((user) => wantedUsers.delete(user));
    try {
      (await (resolve ?? fetchFromServer)(users)).forEach(storeProfile);
    } catch {
      if (isClosed) return;
      users.forEach((user) => wantedUsers.add(user));
      timer = setTimeout(fetchWanted, RETRY_DELAY_MS);
      return;
    }
    if (wantedUsers.size) lookUpSoon();
  };

  const lookUpSoon = () => {
    timer ??= setTimeout(fetchWanted, LOOK_UP_DELAY_MS);
  };

  const requestProfile = (user: string) => {
    if (resolve && knownProfiles.has(user)) return;
    wantedUsers.add(user);
    lookUpSoon();
  };

  const stopFrames = chat.on("frame", (frame) => {
    const { type, ...profile } = frame as ProfileFrame;
    if (!resolve && type === "profile" && profile.user !== undefined) storeProfile(profile as Profile);
  });

  // A new connection follows no users: those on the screen are asked for again.
  const stopStatus = chat.status.subscribe(({ state }) => {
    const cameOnline = state === "online" && !isOnline;
    isOnline = state === "online";
    if (!cameOnline) return;
    if (!resolve) for (const [user, store] of storeByUser) if (store.isSubscribed) wantedUsers.add(user);
    lookUpSoon();
  });

  return {
    of(user) {
      let store = storeByUser.get(user);
      if (!store) {
        const profileWithoutName: Profile = { user };
        store = new Store<Profile>(
          () => knownProfiles.get(user) ?? profileWithoutName,
          () => requestProfile(user),
        );
        storeByUser.set(user, store);
      }
      return store;
    },
    async find(query, { limit, ...options } = {}) {
      const fields = { query, ...(limit !== undefined && { limit }) };
      const { users } = await chat.command<{ users: Profile[] }>("find_users", fields, options);
      users.forEach(storeProfile);
      return users;
    },
    async change(fields, options) {
      const { user, version } = await chat.command<{ user: string; version: number }>("profile", fields, options);
      const before: Profile = knownProfiles.get(user) ?? { user };
      if ((before.version ?? 0) > version) return;
      const keptFields = Object.entries({ ...before, ...fields, version }).filter(([, value]) => value !== null);
      storeProfile(Object.fromEntries(keptFields) as unknown as Profile);
    },
    get available() {
      return hasFeature();
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      stopFrames();
      stopStatus();
    },
  };
}
