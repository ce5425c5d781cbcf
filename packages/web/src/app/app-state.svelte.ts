// A signed-in user's connection and state, shared by all components.

import {
  connect,
  type Acknowledged,
  type Chat,
  type ChatPermissions,
  type Conversation,
  type ConversationInfo,
  type Draft,
} from "@switchboard/client";
import { value } from "@switchboard/client/svelte";
import { nameOf } from "../conversations/name.js";
import { recent } from "../emoji/recent.svelte.js";
import type { Language } from "../i18n/language.svelte.js";
import { Announcer } from "./announcer.svelte.js";
import { Drafts } from "../composer/drafts.svelte.js";
import { Dialogs } from "./dialogs.svelte.js";
import { attention } from "./attention.svelte.js";
import type { AppHost, Attention, Identity } from "./host.js";
import { Notices } from "./notices.svelte.js";
import type { OpenRoom } from "../room/open-room.svelte.js";
import { People } from "./people.svelte.js";
import { Safety } from "./safety.svelte.js";
import type { Settings } from "./settings.svelte.js";

export class AppState {
  readonly host: AppHost;
  readonly language: Language;
  readonly settings: Settings;
  readonly chat: Chat;
  readonly people: People;
  readonly safety: Safety;
  readonly announcer: Announcer;
  readonly notices: Notices;
  readonly dialogs = new Dialogs();
  readonly drafts: Drafts;
  readonly attention: Attention;
  /** The open conversation as its components share it. */
  room = $state.raw<OpenRoom>();
  /** The field that searches the list, for the keyboard shortcut; absent while the list is not shown. */
  finder: HTMLInputElement | undefined;
  /** Whether the open conversation shall take the focus: only after the user has opened it, not after the page has loaded. */
  #follows = false;
  readonly #status;
  readonly #user;
  readonly #inbox;
  readonly #unread;
  readonly #permissions;
  #open = $derived.by(() => this.#find(this.host.navigation.conversation));

  constructor(host: AppHost, identity: Identity, language: Language, settings: Settings) {
    this.host = host;
    this.language = language;
    this.settings = settings;
    this.attention = host.attention ?? attention;
    this.announcer = new Announcer((n) => language.t("newCount", { n }));
    this.notices = new Notices(language);
    this.chat = connect(host.server, identity);
    this.people = new People(this.chat);
    this.safety = new Safety(this);
    this.drafts = new Drafts(() => `${host.server} ${this.me}`);
    this.#status = value(this.chat.status);
    this.#user = value(this.chat.user);
    this.#inbox = value(this.chat.conversations);
    this.#unread = value(this.chat.unread);
    this.#permissions = value(this.chat.permissions);
  }

  get status() {
    return this.#status.current;
  }

  /** The user's id; empty until the server has confirmed it. */
  get me(): string {
    return this.#user.current ?? "";
  }

  get inbox(): readonly ConversationInfo[] {
    return this.#inbox.current;
  }

  /** What the user may do; `undefined` until the server has told it. */
  get permissions(): ChatPermissions | undefined {
    return this.#permissions.current;
  }

  /** The conversation on the screen. */
  get open(): Conversation | undefined {
    return this.#open;
  }

  /** The display name of the open conversation. */
  get openName(): string | undefined {
    const open = this.#open;
    if (!open) return undefined;
    const title = this.inbox.find(({ id }) => id === open.id)?.title;
    return nameOf(open.id, title, this);
  }

  /** Unread messages of all conversations, including those not loaded into the list. */
  get unread(): number {
    return this.#unread.current.messages;
  }

  show(conversation: string): void {
    this.#follows = true;
    this.host.navigation.open(conversation);
  }

  /** Sends a message. The list shows a failure, so the caller may ignore the rejection. */
  send(conversation: Conversation, draft: Draft): Promise<Acknowledged> {
    const { acked, key } = conversation.send(draft);
    acked.then(
      (stored) => this.host.onSent?.({ ...draft, ...stored, key }),
      () => {},
    );
    return acked;
  }

  /** Returns true once after the user has opened a conversation: the caller then moves the focus to it. */
  takeFocus(): boolean {
    const follows = this.#follows;
    this.#follows = false;
    return follows;
  }

  close(): void {
    this.chat.close();
  }

  /** Removes the user's data from the browser: drafts, unsent messages and recent emoji. */
  async forget(): Promise<void> {
    this.drafts.clear();
    recent.clear();
    await this.chat.outbox.clear().catch(() => {
      // The browser's storage cannot be opened, so there is nothing more to remove.
    });
  }

  #find(id: string | undefined): Conversation | undefined {
    // "@bob" is relative to the user, so it cannot be resolved before the user is known.
    if (!id || !this.me) return undefined;
    try {
      return this.chat.conversation(id);
    } catch {
      // The id comes from the address and may be invalid.
      return undefined;
    }
  }
}
