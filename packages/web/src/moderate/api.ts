// The moderators' calls.

import { command, type Access, type ApplicationCalls, type ListedReport } from "@switchboard/client/server";
import { ownServer } from "../app/own-server.js";
import { tabStore } from "../app/storage.js";

export type { ListedReport as Report } from "@switchboard/client/server";
export type ReportState = ListedReport["state"];
export type Action = NonNullable<ListedReport["action"]>;
export type Reports = ApplicationCalls["reports"]["answer"];
export type ContextMessage = ApplicationCalls["moderate/history"]["answer"]["messages"][number];

/** A decision about a report; times in RFC 3339. */
export type Decision = Omit<ApplicationCalls["resolve"]["fields"], "report" | "as">;

/** How many reports a call lists. */
const REPORTS_PER_PAGE = 50;

/** How many reports of a person are looked at beside the chosen one. */
const REPORTS_OF_A_PERSON = 20;

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

  reports(state: ReportState, after: number): Promise<Reports> {
    return command(this.#access, "reports", { state, after, limit: REPORTS_PER_PAGE });
  }

  /** Reports of a person and of what they wrote, in every state. */
  async reportsOf(user: string): Promise<ListedReport[]> {
    return (await command(this.#access, "reports", { user, limit: REPORTS_OF_A_PERSON })).reports;
  }

  async resolve(report: string, decision: Decision): Promise<void> {
    await command(this.#access, "resolve", { report, ...decision });
  }

  async around(conversation: string, around: number, reason: string): Promise<readonly ContextMessage[]> {
    return (await command(this.#access, "moderate/history", { conversation, around, reason })).messages;
  }
}
