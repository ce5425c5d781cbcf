// Tests the page, the frame and the element behind a proxy that serves the chat below a path.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { after, before, test } from "node:test";
import { complaints, launch, Person, Server } from "./support.js";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

const SECRET = "a secret of the tests that is long enough";

/** A proxy with a shop at `/` and the server below `/chat/`, like nginx with `proxy_pass http://server/`. */
async function behindPath(t, files) {
  const proxy = createServer();
  let server;
  const forward = (incoming) => {
    const path = incoming.url.slice("/chat".length);
    return request(new URL(path, server.url), { method: incoming.method, headers: incoming.headers });
  };
  proxy.on("request", (incoming, outgoing) => {
    const path = incoming.url.split("?")[0];
    if (path.startsWith("/chat/")) {
      const inner = forward(incoming);
      inner.on("response", (answer) => {
        outgoing.writeHead(answer.statusCode, answer.headers);
        answer.pipe(outgoing);
      });
      inner.on("error", () => outgoing.destroy());
      return incoming.pipe(inner);
    }
    const [type, body] = files[path] ?? [];
    if (!type) return outgoing.writeHead(path === "/favicon.ico" ? 204 : 404).end();
    outgoing.writeHead(200, { "content-type": type }).end(typeof body === "function" ? body() : body);
  });
  proxy.on("upgrade", (incoming, near) => {
    const inner = forward(incoming);
    inner.on("upgrade", (answer, far, head) => {
      const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}\r\n`);
      near.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join("")}\r\n`);
      near.write(head);
      far.pipe(near).pipe(far);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ]) {
        one.on("error", () => other.destroy());
        one.on("close", () => other.destroy());
      }
    });
    inner.on("response", (answer) => near.end(`HTTP/1.1 ${answer.statusCode} Refused\r\n\r\n`));
    inner.on("error", () => near.destroy());
    inner.end();
  });
  await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
  t.after(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } });
  return { server, url: `http://127.0.0.1:${proxy.address().port}` };
}

/** Checks that every request was below the path, except the shop's own. */
function watchAddresses(person) {
  const outside = [];
  person.page.on("request", (request) => {
    const { pathname } = new URL(request.url());
    if (!pathname.startsWith("/chat/") && !pathname.startsWith("/shop")) outside.push(pathname);
  });
  return outside;
}

test("below a path, the page connects, sends, and keeps its token through a reload", async (t) => {
  const { server, url } = await behindPath(t, {});
  const token = server.token("alice");
  const alice = await Person.open(t, browser, { url }, "alice", `/chat/#token=${token}`);
  await alice.is("online");
  const outside = watchAddresses(alice);
  assert.equal(new URL(alice.page.url()).pathname, "/chat/");
  await alice.writesTo("bob");
  await alice.says("Is anybody there?");
  await alice.sees("Is anybody there?");
  await alice.page.reload();
  await alice.is("online");
  await alice.sees("Is anybody there?");
  await server.asUser("bob", "send", { to: "@alice", text: "Here." });
  await alice.sees("Here.");
  // The second language, dialogs and emoji are loaded on demand.
  await alice.at("composer").fill("x");
  assert.deepEqual(outside, []);
  const icon = await alice.page.evaluate(() => new URL(document.getElementById("icon").href).pathname);
  assert.match(icon, /^\/chat\/favicon(-unread)?\.svg$/);
  assert.deepEqual(complaints([alice]), []);
});

test("below a path, the frame and the element connect", async (t) => {
  let token;
  const files = {
    "/shop/frame": [
      "text/html",
      () => `<!doctype html><html lang=en><title>Shop</title>
      <iframe title=Chat width=400 height=600 src="/chat/embed?conversation=%40shop&lang=de&sidebar=0#token=${token}"></iframe>`,
    ],
    "/shop/element": [
      "text/html",
      `<!doctype html><html lang=en><title>Shop</title>
      <script type=module src="/chat/switchboard-chat.js"></script>
      <switchboard-chat server="/chat/" conversation="@shop" sidebar="0"></switchboard-chat>
      <script type=module src=/shop.js></script>`,
    ],
    "/shop.js": [
      "text/javascript",
      () => `document.querySelector("switchboard-chat").token = ${JSON.stringify(token)};`,
    ],
  };
  const { server, url } = await behindPath(t, files);
  token = server.token("alice");
  const framed = await Person.open(t, browser, { url }, "alice", "/shop/frame");
  const outside = watchAddresses(framed);
  const frame = framed.page.frameLocator("iframe");
  await frame.getByTestId("composer").fill("Haben Sie das in Blau?");
  await frame.getByTestId("composer").press("Enter");
  await frame.locator("[data-testid=message][data-seq]").filter({ hasText: "in Blau?" }).waitFor();
  const element = await Person.open(t, browser, { url }, "alice", "/shop/element");
  await element.sees("Haben Sie das in Blau?");
  await element.says("Or in green?");
  await element.sees("Or in green?");
  assert.deepEqual(outside, []);
  assert.deepEqual(complaints([framed, element]), []);
});
