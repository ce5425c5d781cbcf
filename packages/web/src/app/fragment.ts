// What the address hands over after its `#`: `token=…`, `user=…` and `conversation=…`. Browsers do not send this part to
// any server.

export interface Fragment {
  token?: string;
  user?: string;
  conversation?: string;
}

export function readFragment(hash: string): Fragment {
  const found: Record<string, string> = {};
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, value] = part.split(/=(.*)/s);
    try {
      if (name && value) found[name] = decodeURIComponent(value);
    } catch {
      // Not written by a program of ours.
    }
  }
  const { token, user, conversation } = found;
  return { ...(token && { token }), ...(user && { user }), ...(conversation && { conversation }) };
}
