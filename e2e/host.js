// A server for a page of another origin that embeds the chat, with a strict content security policy.

import { createServer } from "node:http";

/** Serves `files` (path to `[content type, content]`) with `policy`. Returns its origin. */
export async function hostFiles(t, files, policy) {
  const server = createServer((request, response) => {
    const [type, content] = files[new URL(request.url, "http://host").pathname] ?? [];
    // Browsers request a favicon automatically.
    if (!type) return response.writeHead(request.url === "/favicon.ico" ? 204 : 404).end();
    response.writeHead(200, { "content-type": type, ...(policy && { "content-security-policy": policy() }) });
    response.end(typeof content === "function" ? content() : content);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}
