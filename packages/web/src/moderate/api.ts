// The moderators' calls.

import type { ReportReason } from "@switchboard/client/moderation";
import { command, type Access } from "@switchboard/client/server";
import { ownServer } from "../app/own-server.js";
import { tabStore } from "../app/storage.js";

/** A report as `POST /v1/reports` lists it; see docs/protocol.md. */
export interface Report {
  readonly report: string;
  readonly state: ReportState;
  readonly user: string;
  readonly conversation?: string;
  readonly target?: number;
  readonly snapshot?: { readonly text?: string; readonly data?: unknown; readonly at?: string; readonly name?: string };
  readonly reasons: readonly { readonly reason: ReportReason; readonly count: number }[];
  readonly reporters: readonly {
    readonly user: string;
    readonly reason: ReportReason;
    readonly text?: string;
    readonly at: string;
  }[];
  readonly at: string;
  readonly moderator?: string;
  readonly decided?: string;
  readonly action?: Action;
  readonly note?: string;
}

export type ReportState = "open" | "claimed" | "done";
export type Action = "none" | "delete" | "silence" | "remove" | "ban";

/** A decision about a report; times in RFC 3339. */
export interface Decision {
  readonly action: Action | "claim";
  readonly until?: string;
  readonly note?: string;
  readonly tell?: string;
}

/** A message around a reported one. */
export interface ContextMessage {
  readonly seq: number;
  readonly from: string;
  readonly at: string;
  readonly text?: string;
  readonly deleted?: boolean;
}

type Call = (access: Access, name: string, body: object) => Promise<unknown>;

/** The calls with one moderator's token or key, which the tab keeps. */
export class Moderation {
  readonly #access: Access;

  constructor(key: string) {
    this.#access = { url: ownServer(), key };
  }

  /** The moderator who is signed in in this tab. */
  static restore(): Moderation | undefined {
    const key = tabStore.get("moderator");
    return key ? new Moderation(key) : undefined;
  }

  keep(): void {
    tabStore.set("moderator", this.#access.key);
  }

  forget(): void {
    tabStore.set("moderator", undefined);
  }

  async reports(state: ReportState, after: number): Promise<{ reports: Report[]; next: number; more: boolean }> {
    return (await this.#call("reports", { state, after, limit: 50 })) as never;
  }

  async resolve(report: string, decision: Decision): Promise<void> {
    await this.#call("resolve", { report, ...decision });
  }

  async around(conversation: string, around: number, reason: string): Promise<readonly ContextMessage[]> {
    const page = (await this.#call("moderate/history", { conversation, around, reason })) as never;
    return (page as { messages: ContextMessage[] }).messages;
  }

  #call(name: string, body: object): Promise<unknown> {
    return (command as Call)(this.#access, name, body);
  }
}
