// What the tests speak: a server that can be killed and started again, and people in browsers.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const binary = process.env.E2E_SERVER ?? fileURLToPath(new URL("../target/debug/switchboard", import.meta.url));

// The server takes its settings from there; the tests want it as it comes.
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SWITCHBOARD_")));

const flags = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: flags });

/** A server on a data directory of its own; ended and cleaned away with the test `t`. */
export class Server {
  static async start(t) {
    const server = new Server();
    server.data = await mkdtemp(join(tmpdir(), "switchboard-e2e-"));
    t.after(async () => {
      await server.kill();
      await rm(server.data, { recursive: true, force: true });
    });
    await server.start();
    return server;
  }

  /** Starts, the second time on the port of the first. */
  async start() {
    const address = this.url ? new URL(this.url).host : "127.0.0.1:0";
    this.said = "";
    this.process = spawn(binary, ["dev", "--listen", address, "--data", this.data], {
      env: environment, stdio: ["ignore", "pipe", "pipe"],
    });
    this.process.stderr.on("data", (chunk) => (this.said += chunk));
    this.url = await new Promise((resolve, reject) => {
      this.process.on("error", reject);
      this.process.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${this.said}`)));
      createInterface({ input: this.process.stdout }).on("line", (line) => {
        this.said += `${line}\n`;
        const found = /listening on (http:\/\/127\.0\.0\.1:\d+)/.exec(line);
        if (found) resolve(found[1]);
      });
    });
  }

  /** Ends the server as a power cut would: it learns nothing of it. */
  async kill() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await gone;
  }
}

/** Somebody with the page open. */
export class Person {
  static async arrive(t, browser, server, name) {
    const person = await Person.open(t, browser, server, name, `/#user=${name}`);
    await person.isConnected();
    return person;
  }

  static async open(t, browser, server, name, path) {
    const person = new Person();
    const context = await browser.newContext({ baseURL: server.url });
    t.after(() => context.close());
    person.name = name;
    person.complaints = [];
    person.page = await context.newPage();
    person.page.setDefaultTimeout(20_000);
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

  async isConnected() {
    await this.page.locator('[data-testid=status][data-state="connected"]').waitFor();
  }

  async isOffline() {
    await this.page.locator('[data-testid=status][data-state="offline"]').waitFor();
  }

  conversation(id) {
    return this.page.locator(`[data-testid=conversation][data-id="${id}"]`);
  }

  /** Opens `#general` or `@bob` by the field that is there for it. */
  async opens(to) {
    await this.page.getByPlaceholder("write to user…").fill(to);
    await this.page.getByRole("button", { name: "Open", exact: true }).click();
    await this.page.locator("[data-testid=conversation][aria-current]").waitFor();
  }

  async says(text) {
    await this.at("composer").fill(text);
    await this.at("composer").press("Enter");
  }

  /** Messages that are stored, with a number; all of them, or those with this text. */
  messages(text) {
    const all = this.page.locator("[data-testid=message][data-seq]");
    return text === undefined ? all : all.filter({ has: this.page.getByText(text, { exact: true }) });
  }

  async sees(text) {
    await this.messages(text).waitFor();
  }

  /** Waits until `testid` says this, a string wholly or a pattern. */
  async reads(testid, wanted) {
    const text = typeof wanted === "string" ? new RegExp(`^${wanted}$`) : wanted;
    await this.at(testid).filter({ hasText: text }).waitFor({ state: "attached" });
  }

  /** What the log shows, in its order: `[seq, text]`. */
  async log() {
    return this.messages().evaluateAll((nodes) =>
      nodes.map((node) => [Number(node.dataset.seq), node.querySelector(".text").textContent]));
  }

  /** Says frames over a connection of its own, as another program of the same person would. */
  async saysRaw(...frames) {
    return this.page.evaluate(async ([user, frames]) => {
      const socket = new WebSocket(`ws://${location.host}/v1/ws`, "switchboard.v1");
      const answers = [];
      await new Promise((resolve, reject) => {
        socket.onclose = () => reject(new Error("closed"));
        socket.onopen = () => socket.send(JSON.stringify({ type: "hello", user }));
        socket.onmessage = ({ data }) => {
          const frame = JSON.parse(data);
          if (frame.type === "error") reject(new Error(data));
          if (frame.type !== "welcome" && frame.id === undefined) return;
          if (frame.id !== undefined) answers.push(frame);
          const next = frames[answers.length];
          if (next) socket.send(JSON.stringify({ ...next, id: answers.length }));
          else resolve();
        };
      });
      socket.onclose = null;
      socket.close();
      return answers;
    }, [this.name, frames]);
  }
}
