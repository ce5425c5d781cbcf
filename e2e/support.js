// Helpers of the tests: users in browsers, a server that can be killed, a connection that can be cut.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { createServer, connect } from "node:net";
import { chromium } from "playwright-core";
import { Server } from "../packages/client/test/support.js";

export { Server };

const BROWSER_FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const launchBrowser = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: BROWSER_FLAGS });

/** Time-out of a step, in milliseconds. Only a failing test waits so long; it allows for a busy machine. */
const STEP_TIMEOUT_MS = 60_000;

/** Polls `check` until it returns a value, and returns that. Only for states without events, such as another program's. */
export async function eventually(check, what) {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`timed out waiting for ${what}`);
    // waits for: the next look, because another program's state sends no event
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** Ports of listeners. The system takes the ports of outgoing connections, and those of listeners on port 0, from above. */
const LISTENER_PORTS = [10_000, 32_000];

/** Finds a port that is free on an address, for a program that cannot choose one itself. */
export async function freePort(address = "127.0.0.1") {
  for (;;) {
    const port = randomInt(...LISTENER_PORTS);
    const listener = createServer();
    const isFree = await new Promise((done, failed) => {
      listener.once("error", (error) => (error.code === "EADDRINUSE" ? done(false) : failed(error)));
      listener.listen(port, address, () => listener.close(() => done(true)));
    });
    if (isFree) return port;
  }
}

/** Matches what a browser logs for each attempt to reach an unreachable server. */
export const UNREACHABLE_SERVER_MESSAGE = /WebSocket connection to .* failed|net::ERR_/;

/** A proxy to a server whose connections a test can cut, and then restore. */
export async function startCuttableProxy(t, server) {
  const openSockets = new Set();
  let isNetworkUp = true;
  const listener = createServer((clientSocket) => {
    if (!isNetworkUp) return clientSocket.destroy();
    const { hostname, port } = new URL(server.url);
    const serverSocket = connect(Number(port), hostname);
    for (const [one, other] of [
      [clientSocket, serverSocket],
      [serverSocket, clientSocket],
    ]) {
      openSockets.add(one);
      one.pipe(other);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        openSockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise((listening) => listener.listen(0, "127.0.0.1", listening));
  t.after(() => {
    openSockets.forEach((socket) => socket.destroy());
    listener.close();
  });
  return {
    url: `http://127.0.0.1:${listener.address().port}`,
    cut() {
      isNetworkUp = false;
      openSockets.forEach((socket) => socket.destroy());
    },
    goOnline() {
      isNetworkUp = true;
    },
  };
}

/** A user with the page open. */
export class Person {
  static async arrive(t, browser, server, name, options) {
    const person = await Person.open(t, browser, server, name, `/#user=${name}`, options);
    await person.is("online");
    return person;
  }

  static async open(t, browser, { url }, name, path, options = {}) {
    const person = new Person();
    const context = await browser.newContext({ baseURL: url, locale: "en-GB", ...options });
    t.after(() => context.close());
    person.name = name;
    person.touch = options.hasTouch ?? false;
    person.complaints = [];
    person.page = await context.newPage();
    person.page.setDefaultTimeout(STEP_TIMEOUT_MS);
    person.page.on("pageerror", (error) => person.complaints.push(String(error)));
    person.page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) person.complaints.push(message.text());
    });
    person.response = await person.page.goto(path);
    return person;
  }

  at(testid) {
    return this.page.getByTestId(testid);
  }

  /** Waits for this state of the connection. */
  async is(state) {
    await this.page.locator(`[data-testid=status][data-state=${state}]`).first().waitFor({ state: "attached" });
  }

  /**
   * Reconnects, with the button if it is still visible. The page also reconnects by itself and then removes the button, so one
   * script in the page finds and clicks it.
   */
  async reconnects() {
    await this.page.evaluate(() => document.querySelector("[data-testid=reconnect]")?.click());
    await this.is("online");
  }

  /** A conversation's row in the list. */
  conversation(id) {
    return this.page.locator(`[data-testid=conversation][data-id="${id}"]`);
  }

  /** Opens a conversation of the list. */
  async opens(id) {
    await this.conversation(id).click();
    await this.page.locator(`[data-testid=conversation][data-id="${id}"][aria-current]`).waitFor({ state: "attached" });
    await this.at("composer").waitFor();
  }

  /** Opens a new direct conversation with a user. */
  async writesTo(user) {
    await this.at("new-conversation").click();
    await this.at("new-name").fill(user);
    await this.at("new-name").press("Enter");
    await this.at("composer").waitFor();
  }

  async says(text) {
    await this.at("composer").fill(text);
    // On a phone Enter begins a new line.
    if (this.touch) await this.at("send").tap();
    else await this.at("composer").press("Enter");
  }

  /** The acknowledged messages: all, or those with this text. */
  messages(text) {
    const all = this.page.locator("[data-testid=message][data-seq]");
    return text === undefined
      ? all
      : all.filter({ has: this.page.getByTestId("text").getByText(text, { exact: true }) });
  }

  async sees(text) {
    await this.messages(text).waitFor();
  }

  /** Waits until the element `testid` contains the text. */
  async reads(testid, wanted) {
    await this.at(testid).filter({ hasText: wanted }).waitFor({ state: "attached" });
  }

  /** Opens the menu of a message and chooses an item. */
  async chooses(text, item) {
    const message = this.messages(text);
    await message.hover();
    await message.getByTestId("message-menu").click();
    await this.page
      .getByRole("menuitem", { name: item, exact: true })
      .or(this.page.getByRole("menuitemcheckbox", { name: item }))
      .click();
  }

  /** The log's messages in the order shown: `[seq, text]`. */
  async log() {
    return this.messages().evaluateAll((nodes) =>
      nodes.map((node) => [Number(node.dataset.seq), node.querySelector("[data-testid=text]").textContent.trim()]),
    );
  }

  async texts() {
    return (await this.log()).map(([, text]) => text);
  }
}

/** Starts a server and opens the page for each user. */
export async function openPagesOf(t, browser, ...names) {
  const server = await Server.start(t);
  const people = [];
  for (const name of names) people.push(await Person.arrive(t, browser, server, name));
  return [server, ...people];
}

/** Sends a call of a back end, which a `dev` server takes without a key. */
export async function postCall(server, call, body) {
  const answer = await fetch(`${server.url}/v1/${call}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200, await answer.text());
}

/** Errors and warnings in the pages' consoles, except those that the test expects. */
export const unexpectedConsoleMessages = (people, expected) =>
  people.flatMap(({ name, complaints }) =>
    complaints.filter((text) => !expected?.test(text)).map((text) => `${name}: ${text}`),
  );
