// The full page: the open conversation is in the address, the user in the tab's storage.

import { readFragment, type Fragment } from "./fragment.js";
import type { AppHost, Identity, Replacement } from "./host.js";
import { tabStore } from "./storage.js";
import { ownServer } from "./own-server.js";
import { userOf } from "./token.js";
import { AddressNavigation, addressOf } from "./navigation.svelte.js";

export class PageHost implements AppHost {
  readonly server = ownServer();
  readonly navigation: AddressNavigation;
  readonly sidebar = true;
  readonly theme = undefined;
  readonly language = undefined;
  readonly ownsDocument = true;
  #identity = $state.raw<Identity>();
  #offered = $state.raw<Fragment>();

  constructor() {
    const fragment = readFragment(location.hash);
    if (this.#replaces(fragment)) this.#offered = fragment;
    else this.#accept(fragment);
    this.#cleanAddress(fragment);
    this.navigation = new AddressNavigation();
    this.#identity = storedIdentity();
    // The user followed a link with credentials in this tab.
    addEventListener("hashchange", () => {
      const fragment = readFragment(location.hash);
      if (!(fragment.token ?? fragment.user)) return;
      if (!this.#replaces(fragment)) {
        if (!fragment.token || fragment.token === tabStore.get("token")) return;
        this.#accept(fragment);
        return location.reload();
      }
      this.#offered = fragment;
      this.#cleanAddress(fragment);
    });
  }

  /** Another user's credentials from the address, which the user has to confirm; a link could carry a stranger's. */
  get replacement(): Replacement | undefined {
    const offered = this.#offered;
    if (!offered) return undefined;
    return {
      user: offered.token ? userOf(offered.token) : offered.user,
      before: currentUser(),
      accept: () => {
        this.#accept(offered);
        location.reload();
      },
      refuse: () => (this.#offered = undefined),
    };
  }

  /** Whether the credentials are those of another user than the one who is signed in in this tab. */
  #replaces({ token, user }: Fragment): boolean {
    if (!storedIdentity() || !(token ?? user)) return false;
    const wanted = token ? userOf(token) : user;
    return wanted === undefined ? token !== tabStore.get("token") : wanted !== currentUser();
  }

  #accept({ token, user }: Fragment): void {
    if (!(token ?? user)) return;
    tabStore.set("token", token);
    tabStore.set("user", token ? undefined : user);
  }

  /** Removes a token from the address, because people copy and share addresses. A name may stay, for reloads. */
  #cleanAddress({ token, conversation }: Fragment): void {
    if (token || conversation || this.#offered)
      history.replaceState(null, "", conversation ? addressOf(conversation) : location.pathname);
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
}

function storedIdentity(): Identity | undefined {
  const token = tabStore.get("token");
  if (token) return { token };
  const user = tabStore.get("user");
  return user ? { user } : undefined;
}

function currentUser(): string | undefined {
  const token = tabStore.get("token");
  return token ? userOf(token) : tabStore.get("user");
}
