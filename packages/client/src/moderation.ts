// What a user does against unwanted messages: blocks their authors, on all devices, and reports them to the moderators. And what
// moderators decide: about reports, and about the user's own messages that wait for them.

import { ChatError } from "./error.js";
import type { Entry, Outbox } from "./outbox.js";
import { Store } from "./store.js";
import type { ReportAction } from "./protocol.js";
import type { Chat, CommandOptions, Readable } from "./types.js";

/** How many pages of blocked users are loaded: more than `limits.blocks` users need. */
const MAX_PAGES = 20;

/** A user whom this user has blocked. */
export interface BlockedUser {
  readonly user: string;
  /** The name for people. It is another person's text: show it isolated, for instance in `<bdi>`. */
  readonly name?: string;
  /** When the user was blocked. */
  readonly at: string;
}

/** Why a message or a user is reported. */
export type ReportReason = "spam" | "abuse" | "sexual" | "violence" | "self_harm" | "illegal" | "other";

/** A message or a user, why it is reported, and what the reporter adds for the moderators: 500 bytes at most. */
export type Report = ({ conversation: string; target: number } | { user: string }) & {
  reason: ReportReason;
  text?: string;
};

/** What a moderator decided: about what this user wrote, or about what this user has reported. */
export interface Decision {
  readonly action: ReportAction;
  /** The report, if this user made it. */
  readonly report?: string;
  /** The conversation and the number of the message, if a message was reported. */
  readonly conversation?: string;
  readonly target?: number;
  /** What the moderator tells the author. */
  readonly text?: string;
}

export interface Moderation {
  /** Whether the server lets users block each other. */
  readonly available: boolean;
  /** Whether the server takes reports. */
  readonly takesReports: boolean;
  /** The blocked users; `undefined` until they are loaded. They are loaded while there are subscribers. */
  readonly blocked: Readable<readonly BlockedUser[] | undefined>;
  /**
   * Blocks a user: the server no longer sends this user what they write, have written and do. Their messages come
   * `withheld`, without content, and a direct conversation with them is not in the list.
   */
  block(user: string, options?: CommandOptions): Promise<void>;
  /** No longer blocks a user: all that they wrote is there again. */
  unblock(user: string, options?: CommandOptions): Promise<void>;
  /** Reports a message or a user to the moderators. Returns the id of the report, the same for a second report of the same. */
  report(report: Report, options?: CommandOptions): Promise<string>;
  /** Calls `listener` with each decision that concerns this user, while connected. Returns a function that ends it. */
  onDecision(listener: (decision: Decision) => void): () => void;
  /** Ends the loading, and the calls of listeners. */
  close(): void;
}

interface BlocksPage {
  blocks: BlockedUser[];
  more: boolean;
}

/**
 * What a chat's user does against unwanted messages. Make one for a chat. With it, a message that is `held` learns at once that a
 * moderator has rejected it; without it, when the page is loaded again.
 */
export function moderation(chat: Chat): Moderation {
  let blockedUsers: readonly BlockedUser[] | undefined;
  let isOnline = false;
  let isClosed = false;
  /** Grows with each change, because a page that was requested before it does not contain it. */
  let changes = 0;

  const hasFeature = () => chat.features.includes("block");

  const readAll = async (): Promise<BlockedUser[]> => {
    const all: BlockedUser[] = [];
    for (let pages = 0; pages < MAX_PAGES; pages++) {
      const after = all.at(-1)?.user;
      const page = await chat.command<BlocksPage>("blocks", after === undefined ? {} : { after });
      all.push(...page.blocks);
      if (!page.more || !page.blocks.length) break;
    }
    return all;
  };

  const load = async () => {
    if (isClosed || !isOnline || !hasFeature() || !blocked.isSubscribed) return;
    const before = ++changes;
    try {
      const users = await readAll();
      if (before !== changes) return;
      blockedUsers = users;
      blocked.invalidate();
    } catch (error) {
      // With the next connection, change or subscription the list is loaded again.
      if (!(error instanceof ChatError)) throw error;
    }
  };

  const blocked = new Store<readonly BlockedUser[] | undefined>(
    () => blockedUsers,
    () => void load(),
  );

  /** Sends held messages again: the answer says what a moderator has decided, and a message that still waits stays held. */
  const askAboutHeld = () => {
    const outbox = chat.outbox as unknown as Outbox;
    for (const { key, to, state } of outbox.entries.getSnapshot()) {
      const entry = chat.conversation(to).outgoing(key) as Entry | undefined;
      if (state === "held" && entry) entry.needsResend = true;
    }
    outbox.sendWaiting();
  };

  const listeners = new Set<(decision: Decision) => void>();

  const stopFrames = chat.on("frame", ({ type, ...fields }) => {
    if (type === "block") void load();
    if (type !== "notice") return;
    const decision = fields as unknown as Decision;
    if (decision.action === "reject") askAboutHeld();
    for (const listener of listeners) listener(decision);
  });

  const stopStatus = chat.status.subscribe(({ state }) => {
    const cameOnline = state === "online" && !isOnline;
    isOnline = state === "online";
    if (!cameOnline) return;
    void load();
    askAboutHeld();
  });

  const setBlock = async (user: string, on: boolean, options: CommandOptions | undefined) => {
    await chat.command("block", { user, on }, options);
    await load();
  };

  return {
    get available() {
      return hasFeature();
    },
    get takesReports() {
      return chat.features.includes("report");
    },
    blocked,
    report: async (report, options) => (await chat.command<{ report: string }>("report", report, options)).report,
    block: (user, options) => setBlock(user, true, options),
    unblock: (user, options) => setBlock(user, false, options),
    onDecision(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close() {
      isClosed = true;
      listeners.clear();
      stopFrames();
      stopStatus();
    },
  };
}
