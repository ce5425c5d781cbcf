// The parameters in the address after `#`: `token=…`, `user=…` and `conversation=…`. Browsers send this part to no
// server.

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
      // A parameter that is not in the expected form is ignored.
    }
  }
  const { token, user, conversation } = found;
  return { ...(token && { token }), ...(user && { user }), ...(conversation && { conversation }) };
}
