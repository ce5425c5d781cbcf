import assert from "node:assert/strict";
import { test } from "node:test";
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
