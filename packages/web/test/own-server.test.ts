import assert from "node:assert/strict";
import { test } from "node:test";
import { rewriteOriginTo } from "../build/origin.js";
import { ownServer } from "../src/app/own-server.js";

test("the server's URL is the directory of the page", () => {
  for (const [page, server] of [
    ["https://chat.example/#/c/%23general", "https://chat.example"],
    ["https://chat.example/embed?conversation=%40bob#token=x", "https://chat.example"],
    ["https://shop.example/chat/", "https://shop.example/chat"],
    ["https://shop.example/chat/embed?lang=de", "https://shop.example/chat"],
    ["https://shop.example/a/b/index.html", "https://shop.example/a/b"],
  ] as const) {
    assert.equal(ownServer(page), server);
  }
});

test("the proxy of the development page replaces its own origin, and that of no other page", () => {
  const rewrittenOrigin = (origin: string | undefined) => {
    const headers: Record<string, string> = {};
    const out = { setHeader: (name: string, value: string) => (headers[name] = value) };
    const incoming = { headers: { host: "localhost:5173", ...(origin && { origin }) } };
    rewriteOriginTo("http://127.0.0.1:9501")(out as never, incoming as never);
    return headers["origin"];
  };
  assert.equal(rewrittenOrigin("http://localhost:5173"), "http://127.0.0.1:9501");
  assert.equal(rewrittenOrigin("https://other.example"), undefined);
  assert.equal(rewrittenOrigin("http://localhost:9999"), undefined);
  assert.equal(rewrittenOrigin(undefined), undefined);
});
