// The full page: the open conversation is in the address, the user in the tab's storage.

import { readFragment } from "./fragment.js";
import type { Host, Identity } from "./host.js";
import { tab } from "./kept.js";
import { ownServer } from "./own-server.js";
import { AddressPlace, addressOf } from "./place.svelte.js";

export class PageHost implements Host {
  readonly server = ownServer();
  readonly place: AddressPlace;
  readonly sidebar = true;
  readonly theme = undefined;
  readonly language = undefined;
  readonly ownsDocument = true;
  #identity = $state.raw<Identity>();

  constructor() {
    const { token, user, conversation } = readFragment(location.hash);
    if (token ?? user) {
      tab.set("token", token);
      tab.set("user", token ? undefined : user);
    }
    // Remove a token from the address, because people copy and share addresses. A name may stay, for reloads.
    if (token || conversation)
      history.replaceState(null, "", conversation ? addressOf(conversation) : location.pathname);
    this.place = new AddressPlace();
    this.#identity = kept();
    addEventListener("hashchange", () => {
      // The user followed a link with another user's credentials in this tab: reload and sign in with them.
      const { token, user } = readFragment(location.hash);
      if (token || (user && user !== tab.get("user"))) location.reload();
    });
  }

  get identity(): Identity | undefined {
    return this.#identity;
  }

  signIn(user: string): void {
    tab.set("user", user);
    this.#identity = { user };
    if (!this.place.conversation) history.replaceState(null, "", `#user=${encodeURIComponent(user)}`);
  }

  signOut(): void {
    tab.set("token", undefined);
    tab.set("user", undefined);
    this.#identity = undefined;
    history.replaceState(null, "", location.pathname);
    dispatchEvent(new PopStateEvent("popstate"));
  }

  tellUnread(): void {
    // The document's title shows the number.
  }
}

function kept(): Identity | undefined {
  const token = tab.get("token");
  if (token) return { token };
  const user = tab.get("user");
  return user ? { user } : undefined;
}
