// Helpers of the tests: the real server, which can be killed and started again, and connections that can be cut.

import { execFile, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { promisify } from "node:util";
import WebSocket from "ws";
import { connect } from "@switchboard/client";
import { fakeServer } from "@switchboard/client/testing";

const serverBinary =
  process.env.SWITCHBOARD_BINARY ?? fileURLToPath(new URL("../../../target/debug/switchboard", import.meta.url));

// The server reads settings from the environment; the tests need the default settings.
const minimalEnvironment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith("SWITCHBOARD_")),
);

/** Milliseconds that a test waits before it fails. */
const TEST_TIMEOUT_MS = 30_000;

/** A server on its own data directory; stopped and deleted after the test `t`. */
export class Server {
  static async start(t, { args = ["dev"], env = {} } = {}) {
    const server = new Server();
    Object.assign(server, { args, env, data: await mkdtemp(join(tmpdir(), "switchboard-sdk-")) });
    t.after(async () => {
      await server.kill();
      await rm(server.data, { recursive: true, force: true });
    });
    await server.start();
    return server;
  }

  /** Starts the server; later starts use the port of the first one. */
  async start() {
    const address = this.url ? new URL(this.url).host : "127.0.0.1:0";
    let answerBody = "";
    this.process = spawn(serverBinary, [...this.args, "--listen", address, "--data", this.data], {
      env: { ...minimalEnvironment, ...this.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process.stderr.on("data", (chunk) => (answerBody += chunk));
    this.url = await new Promise((resolve, reject) => {
      this.process.on("error", reject);
      this.process.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${answerBody}`)));
      createInterface({ input: this.process.stdout }).on("line", (line) => {
        answerBody += `${line}\n`;
        const found = /listening on (https?:\/\/127\.0\.0\.1:\d+)/.exec(line);
        if (found) resolve(found[1]);
      });
    });
  }

  /** Kills the server without a clean stop. */
  async kill() {
    await this.stop("SIGKILL");
  }

  async stop(signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const processExits = once(this.process, "exit");
    this.process.kill(signal);
    await processExits;
  }

  /** Connections that a test can cut. */
  connectionGroup() {
    return connectionGroup();
  }

  /** A chat of a user, which is closed after the test. */
  connects(t, user, options = {}) {
    const chat = connect(this.url, { user, ...options });
    t.after(() => chat.close());
    return chat;
  }

  /** Runs a command of the command line on the server's data. */
  cli(...args) {
    return promisify(execFile)(serverBinary, [...args, "--data", this.data], {
      env: { ...minimalEnvironment, ...this.env },
    });
  }

  /** Creates an API key with these flags of `key create`, and returns it. */
  async createKey(name, ...flags) {
    const { stdout } = await this.cli("key", "create", name, ...flags);
    return /sbk_\S+/.exec(stdout)[0];
  }

  /** Makes a token for a user; the server's secret is in `env`. */
  token(user, { ttl = 3_600 } = {}) {
    const base64UrlJson = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const signed = `${base64UrlJson({ alg: "HS256", typ: "JWT" })}.${base64UrlJson({ sub: user, exp: Math.floor(Date.now() / 1_000) + ttl })}`;
    return `${signed}.${createHmac("sha256", this.env.SWITCHBOARD_AUTH_SECRET).update(signed).digest("base64url")}`;
  }

  /** Posts a command as a user of a production server. */
  asUser(user, command, body) {
    return this.posts(command, body, { authorization: `Bearer ${this.token(user)}` });
  }

  /** Waits until the server has this number of connections. */
  async hasConnections(isWanted) {
    for (;;) {
      const page = await (await fetch(`${this.url}/metrics`)).text();
      if (Number(/^switchboard_connections (\d+)/m.exec(page)?.[1]) === isWanted) return;
      // waits for: the next poll, because no event reports it
      await new Promise((done) => setTimeout(done, 20));
    }
  }

  async posts(command, body, moreHeaders = {}) {
    const headers = { "content-type": "application/json", ...moreHeaders };
    const answer = await fetch(`${this.url}/v1/${command}`, { method: "POST", headers, body: JSON.stringify(body) });
    const answerBody = await answer.json();
    if (!answer.ok) throw new Error(`${command}: ${JSON.stringify(answerBody)}`);
    return answerBody;
  }

  /** Reads the reachable log of a conversation, page by page. */
  async log(user, conversation) {
    const events = [];
    for (let hasMore = true; hasMore;) {
      const page = await this.posts("sync", { as: user, conversation, after: events.at(-1)?.seq ?? 0, limit: 200 });
      events.push(...page.events);
      hasMore = page.more;
    }
    return events;
  }

  async history(user, conversation) {
    const messages = [];
    for (let hasMore = true; hasMore;) {
      const before = messages[0]?.seq;
      const page = await this.posts("history", { as: user, conversation, limit: 200, ...(before && { before }) });
      messages.unshift(...page.messages);
      hasMore = page.more;
    }
    return messages;
  }
}

/** The messages with which a `dev` server starts. */
const FIRST_MESSAGES = [
  ["alice", "Hi Bob! Every message here is on the disk before I see that it was sent."],
  ["bob", "And when I was away I get what I missed, in the same order as you."],
  ["alice", "Open the other link in a second tab and write something."],
];

/** The fake server of `@switchboard/client/testing`, with the methods of `Server` that the tests use. */
export class FakeServerAdapter {
  static async start(t, { env = {} } = {}) {
    const prefix = "SWITCHBOARD_LIMITS_";
    const limitVariables = Object.entries(env).filter(([name]) => name.startsWith(prefix));
    const limits = limitVariables.map(([name, value]) => [name.slice(prefix.length).toLowerCase(), Number(value)]);
    const fake = new FakeServerAdapter();
    fake.server = fakeServer({ limits: Object.fromEntries(limits) });
    fake.url = fake.server.url;
    await fake.posts("create", { as: "alice", room: "general", title: "General", public: true, members: ["bob"] });
    for (const [as, text] of FIRST_MESSAGES) await fake.posts("send", { as, to: "#general", text });
    return fake;
  }

  async start() {
    this.server.start();
  }

  async kill() {
    this.server.stop();
    this.server.cut();
  }

  async stop() {
    this.server.stop(700);
  }

  connectionGroup() {
    return this.server.connectionGroup();
  }

  connects(t, user, options = {}) {
    const chat = this.server.connect(user, { outbox: undefined, ...options });
    t.after(() => chat.close());
    return chat;
  }

  async posts(command, { as, ...fields }) {
    return this.server.command(as, command, fields);
  }

  log = Server.prototype.log;
  history = Server.prototype.history;
}

/** A test that both servers pass. */
export function testOnBothServers(name, run) {
  test(`${name} (real)`, (t) => run(t, Server));
  test(`${name} (fake)`, (t) => run(t, FakeServerAdapter));
}

/** Makes a WebSocket class whose connections a test can cut, refuse and count. */
export function connectionGroup() {
  const openSockets = new Set();
  let reachable = true;
  class GroupSocket extends WebSocket {
    constructor(url, ...args) {
      // While the network is cut, connects to port 1, on which no process listens.
      super(reachable ? url : "ws://127.0.0.1:1", ...args);
      openSockets.add(this);
      this.on("close", () => openSockets.delete(this));
      this.on("error", () => {});
    }
  }
  return {
    WebSocket: GroupSocket,
    open: openSockets,
    /** Cuts the connections without a close frame, like a failed network. */
    cut: () => openSockets.forEach((socket) => socket.terminate()),
    /** Cuts the connections, and lets no new one through until `goOnline`. */
    goOffline() {
      reachable = false;
      this.cut();
    },
    goOnline() {
      reachable = true;
    },
  };
}

/** Waits until a store has the wanted value, and returns it. */
export function until(store, isWanted, what = isWanted.toString()) {
  return new Promise((resolve, reject) => {
    let stop;
    let done = false;
    const timer = setTimeout(() => {
      stop();
      reject(
        new Error(`waited in vain for ${what}; it is ${JSON.stringify(store.getSnapshot(), null, 1).slice(0, 2_000)}`),
      );
    }, TEST_TIMEOUT_MS);
    stop = store.subscribe((value) => {
      if (done || !isWanted(value)) return;
      done = true;
      clearTimeout(timer);
      resolve(value);
      queueMicrotask(() => stop());
    });
  });
}

export const untilOnline = (chat) => until(chat.status, ({ state }) => state === "online");

/** Waits until the list shows exactly these texts. */
export const untilTexts = (room, texts) =>
  until(
    room.messages,
    (list) => JSON.stringify(list.map((m) => m.text)) === JSON.stringify(texts),
    `the texts ${texts}`,
  );
