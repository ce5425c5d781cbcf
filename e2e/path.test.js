// Tests the page, the frame and the element behind a proxy that serves the chat below a path.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { after, before, test } from "node:test";
import { unexpectedConsoleMessages, launchBrowser, Person, Server } from "./support.js";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

const SECRET = "a secret of the tests that is long enough";

/** A proxy with a shop at `/` and the server below `/chat/`, like nginx with `proxy_pass http://server/`. */
async function startProxyWithPath(t, files) {
  const proxy = createServer();
  let server;
  const forward = (incoming) => {
    const path = incoming.url.slice("/chat".length);
    return request(new URL(path, server.url), { method: incoming.method, headers: incoming.headers });
  };
  proxy.on("request", (incoming, outgoing) => {
    const path = incoming.url.split("?")[0];
    if (path.startsWith("/chat/")) {
      const forwardedRequest = forward(incoming);
      forwardedRequest.on("response", (answer) => {
        outgoing.writeHead(answer.statusCode, answer.headers);
        answer.pipe(outgoing);
      });
      forwardedRequest.on("error", () => outgoing.destroy());
      return incoming.pipe(forwardedRequest);
    }
    const [type, body] = files[path] ?? [];
    if (!type) return outgoing.writeHead(path === "/favicon.ico" ? 204 : 404).end();
    outgoing.writeHead(200, { "content-type": type }).end(typeof body === "function" ? body() : body);
  });
  proxy.on("upgrade", (incoming, near) => {
    const forwardedRequest = forward(incoming);
    forwardedRequest.on("upgrade", (answer, far, head) => {
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
    forwardedRequest.on("response", (answer) => near.end(`HTTP/1.1 ${answer.statusCode} Refused\r\n\r\n`));
    forwardedRequest.on("error", () => near.destroy());
    forwardedRequest.end();
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
function recordUrlsOutsidePath(person) {
  const urlsOutsidePath = [];
  person.page.on("request", (request) => {
    const { pathname } = new URL(request.url());
    if (!pathname.startsWith("/chat/") && !pathname.startsWith("/shop")) urlsOutsidePath.push(pathname);
  });
  return urlsOutsidePath;
}

test("below a path, the page connects, sends, and keeps its token through a reload", async (t) => {
  const { server, url } = await startProxyWithPath(t, {});
  const token = server.token("alice");
  const alice = await Person.open(t, browser, { url }, "alice", `/chat/#token=${token}`);
  await alice.is("online");
  const urlsOutsidePath = recordUrlsOutsidePath(alice);
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
  assert.deepEqual(urlsOutsidePath, []);
  const iconPath = await alice.page.evaluate(() => new URL(document.getElementById("icon").href).pathname);
  assert.match(iconPath, /^\/chat\/favicon(-unread)?\.svg$/);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
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
  const { server, url } = await startProxyWithPath(t, files);
  token = server.token("alice");
  const personWithFrame = await Person.open(t, browser, { url }, "alice", "/shop/frame");
  const urlsOutsidePath = recordUrlsOutsidePath(personWithFrame);
  const frame = personWithFrame.page.frameLocator("iframe");
  await frame.getByTestId("composer").fill("Haben Sie das in Blau?");
  await frame.getByTestId("composer").press("Enter");
  await frame.locator("[data-testid=message][data-seq]").filter({ hasText: "in Blau?" }).waitFor();
  const personWithElement = await Person.open(t, browser, { url }, "alice", "/shop/element");
  await personWithElement.sees("Haben Sie das in Blau?");
  await personWithElement.says("Or in green?");
  await personWithElement.sees("Or in green?");
  assert.deepEqual(urlsOutsidePath, []);
  assert.deepEqual(unexpectedConsoleMessages([personWithFrame, personWithElement]), []);
});
