// The full page: the open conversation is in the address, the user in the tab's storage.

import { readFragment } from "./fragment.js";
import type { AppHost, Identity } from "./host.js";
import { tabStore } from "./storage.js";
import { ownServer } from "./own-server.js";
import { AddressNavigation, addressOf } from "./navigation.svelte.js";

export class PageHost implements AppHost {
  readonly server = ownServer();
  readonly navigation: AddressNavigation;
  readonly sidebar = true;
  readonly theme = undefined;
  readonly language = undefined;
  readonly ownsDocument = true;
  #identity = $state.raw<Identity>();

  constructor() {
    const { token, user, conversation } = readFragment(location.hash);
    if (token ?? user) {
      tabStore.set("token", token);
      tabStore.set("user", token ? undefined : user);
    }
    // Remove a token from the address, because people copy and share addresses. A name may stay, for reloads.
    if (token || conversation)
      history.replaceState(null, "", conversation ? addressOf(conversation) : location.pathname);
    this.navigation = new AddressNavigation();
    this.#identity = storedIdentity();
    addEventListener("hashchange", () => {
      // The user followed a link with another user's credentials in this tab: reload and sign in with them.
      const { token, user } = readFragment(location.hash);
      if (token || (user && user !== tabStore.get("user"))) location.reload();
    });
  }

  get identity(): Identity | undefined {
    return this.#identity;
  }

  signIn(user: string): void {
    tabStore.set("user", user);
    this.#identity = { user };
    if (!this.navigation.conversation) history.replaceState(null, "", `#user=${encodeURIComponent(user)}`);
  }

  signOut(): void {
    tabStore.set("token", undefined);
    tabStore.set("user", undefined);
    this.#identity = undefined;
    history.replaceState(null, "", location.pathname);
    dispatchEvent(new PopStateEvent("popstate"));
  }

  reportUnread(): void {
    // Nothing to do here, because the document's title shows the number of unread messages.
  }
}

function storedIdentity(): Identity | undefined {
  const token = tabStore.get("token");
  if (token) return { token };
  const user = tabStore.get("user");
  return user ? { user } : undefined;
}
