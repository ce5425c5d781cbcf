// The interface between an embedded app and the page around it: events to the page, and actions that the page starts. The
// element and the frame both use it.

import type { Acknowledged, Conversation, ConversationInfo, Draft } from "@switchboard/client";
import { value } from "@switchboard/client/svelte";
import { untrack } from "svelte";
import type { AppState } from "./app-state.svelte.js";
import type { Navigation } from "./navigation.svelte.js";
import type { ChatEventDetails, UnreadCounts } from "../../types/index.js";

/** Reports an event. Returns false if the page cancelled it. */
export type Emit = <K extends keyof ChatEventDetails>(name: K, detail: ChatEventDetails[K]) => boolean;

const NO_UNREAD: UnreadCounts = { count: 0, conversations: {} };

interface Waiting {
  readonly draft: string | Draft;
  resolve(stored: Promise<Acknowledged>): void;
}

export class Embedding {
  #emit: Emit;
  #navigation: Navigation;
  #unread = NO_UNREAD;
  /** The app of the current user, while there is one. */
  #appState = $state.raw<AppState>();
  /** A text for the message field, until there is a field. */
  #composing = $state.raw<string>();
  #wantsFocus = $state.raw(false);
  #waiting = $state.raw<readonly Waiting[]>([]);

  constructor(navigation: Navigation, emit: Emit) {
    this.#navigation = navigation;
    this.#emit = emit;
  }

  get unread(): UnreadCounts {
    return this.#unread;
  }

  /** Connects a user's app with the page. Call it while a component is created, so that the effects end with it. */
  attach(appState: AppState): void {
    const { chat } = appState;
    $effect(() => {
      this.#appState = appState;
      return () => {
        this.#appState = undefined;
        this.#reportUnread(NO_UNREAD);
      };
    });
    const info = $derived(appState.host.single && appState.open ? value(appState.open.info) : undefined);
    $effect(() => this.#reportUnread(appState.host.single ? unreadOf(info?.current) : unreadOfAll(appState)));
    $effect(() => {
      const { state, code, reason } = appState.status;
      this.#emit("status", { state, ...(code !== undefined && { code }), ...(reason !== undefined && { reason }) });
    });
    const isOnline = $derived(appState.status.state === "online");
    let wasReady = false;
    $effect(() => {
      if (!isOnline || wasReady) return;
      wasReady = true;
      this.#emit("ready", { user: untrack(() => appState.me) });
    });
    const open = $derived(appState.open?.id);
    $effect(() => void this.#emit("conversationchange", { conversation: open }));
    $effect(() =>
      chat.on(
        "message",
        ({ conversation: { id }, message }) => {
          if (message.from === appState.me || (appState.host.single && id !== appState.open?.id)) return;
          this.#emit("message", { conversation: id, message });
        },
        { replay: "none" },
      ),
    );
    $effect(() => chat.on("error", ({ code, message }) => this.fail(code, message)));
    const { error } = $derived(appState.status);
    $effect(() => {
      const { state, retryIn } = appState.status;
      if (state === "offline" && retryIn === undefined && error) this.fail(error.code, error.message);
    });
    this.#checkConversation(appState);
    this.#act(appState);
  }

  /** Reports an error to the page, and to its developer. */
  fail(code: string, message: string): void {
    console.error(`switchboard: ${message}`);
    this.#emit("error", { code, message });
  }

  show(conversation: string): void {
    if (this.#appState) this.#appState.show(conversation);
    else this.#navigation.open(conversation);
  }

  compose(text: string): void {
    this.#composing = text;
    this.#wantsFocus = true;
  }

  focus(): void {
    this.#wantsFocus = true;
  }

  /** Sends a message to the open conversation, as soon as the user and the conversation are known. */
  send(draft: string | Draft): Promise<Acknowledged> {
    return new Promise((resolve) => (this.#waiting = [...this.#waiting, { draft, resolve }]));
  }

  /** Removes the user's data from the browser. */
  async forget(): Promise<void> {
    await this.#appState?.forget();
  }

  #reportUnread(now: UnreadCounts): void {
    if (JSON.stringify(now) === JSON.stringify(this.#unread)) return;
    this.#unread = now;
    this.#emit("unread", now);
  }

  /** Reports a conversation that does not exist: most often its name in the page is wrong. */
  #checkConversation(appState: AppState): void {
    $effect(() => {
      const { conversation } = this.#navigation;
      if (!appState.me) return;
      if (!conversation) {
        if (appState.host.single) this.fail("invalid", "a single conversation needs the name of that conversation");
        return;
      }
      try {
        appState.chat.conversation(conversation);
      } catch (error) {
        this.fail("invalid", error instanceof Error ? error.message : String(error));
      }
    });
    const isGone = $derived(["missing", "ended"].includes(appState.room?.state ?? ""));
    const missing = $derived(isGone ? appState.room?.id : undefined);
    $effect(() => {
      if (missing) this.fail("not_found", `${missing} does not exist, or ${appState.me} is not a member`);
    });
  }

  /** Carries out what the page asked for, once that is possible. */
  #act(appState: AppState): void {
    $effect(() => {
      const field = appState.room?.field;
      if (!field) return;
      if (this.#composing !== undefined) {
        field.value = this.#composing;
        field.dispatchEvent(new InputEvent("input", { bubbles: true }));
        this.#composing = undefined;
      }
      if (this.#wantsFocus) field.focus();
      this.#wantsFocus = false;
    });
    $effect(() => {
      const { open } = appState;
      if (!open || !this.#waiting.length) return;
      const waiting = this.#waiting;
      this.#waiting = [];
      untrack(() => waiting.forEach(({ draft, resolve }) => resolve(sendTo(open, draft, appState))));
    });
  }
}

function sendTo(conversation: Conversation, draft: string | Draft, appState: AppState): Promise<Acknowledged> {
  return appState.send(conversation, typeof draft === "string" ? { text: draft } : draft);
}

function unreadOfAll(appState: AppState): UnreadCounts {
  const unread = appState.inbox.filter((info) => info.unread > 0).map((info) => [info.id, info.unread] as const);
  return { count: appState.unread, conversations: Object.fromEntries(unread) };
}

function unreadOf(info: ConversationInfo | undefined): UnreadCounts {
  return info?.unread ? { count: info.unread, conversations: { [info.id]: info.unread } } : NO_UNREAD;
}
