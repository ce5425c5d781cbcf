// Firefox and WebKit for the tests, from Debian's packages and without a library in between: Firefox by WebDriver BiDi
// (https://www.w3.org/TR/webdriver-bidi/), WebKit by WebDriver (https://www.w3.org/TR/webdriver2/).

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import WebSocket from "ws";
import { eventually, freePort } from "./support.js";

/** WebDriver's codes of keys without a character. */
const KEYS = { Shift: "\uE008", Tab: "\uE004", Enter: "\uE007", Escape: "\uE00C", ArrowUp: "\uE013", End: "\uE010" };

/** Runs the functions that are added to the result after the test, the last one first. */
function cleanupsAfter(t) {
  const cleanups = [];
  t.after(async () => {
    for (const end of cleanups.toReversed()) await end();
  });
  return cleanups;
}

/** Makes a directory for what a browser stores. */
async function makeHome(cleanups) {
  const home = await mkdtemp(join(tmpdir(), "switchboard-browser-"));
  cleanups.push(() => rm(home, { recursive: true, force: true, maxRetries: 5 }));
  return home;
}

/** Starts a program. `output`: the number of the stream that is read. */
function startProgram(cleanups, command, args, { output, env = {} }) {
  const stdio = ["ignore", "ignore", "ignore"];
  stdio[output] = "pipe";
  const program = spawn(command, args, { stdio, env: { ...process.env, ...env } });
  const ended = once(program, "exit");
  cleanups.push(async () => {
    program.kill();
    await ended;
  });
  return program;
}

/** Waits for a line that matches, and returns the match. */
async function lineOf(stream, pattern) {
  for await (const line of createInterface({ input: stream })) {
    const found = pattern.exec(line);
    if (found) {
      // The program goes on writing, and would wait if nothing read it.
      stream.resume();
      return found;
    }
  }
  throw new Error(`it ended without ${pattern}`);
}

/** A page of a browser. What both engines have in common is built on `evaluate` and `perform`. */
class EnginePage {
  /** Presses keys together: `Enter`, `Shift+Tab`. */
  async press(keys) {
    const values = keys.split("+").map((name) => KEYS[name] ?? name);
    const down = values.map((value) => ({ type: "keyDown", value }));
    const up = values.toReversed().map((value) => ({ type: "keyUp", value }));
    await this.perform([{ type: "key", id: "keyboard", actions: [...down, ...up] }]);
  }

  /** Types a text into the focused element. */
  async type(text) {
    const actions = [...text].flatMap((value) => ["keyDown", "keyUp"].map((type) => ({ type, value })));
    await this.perform([{ type: "key", id: "keyboard", actions }]);
  }

  /** Clicks at the middle of an element, as soon as it is there. */
  async click(selector) {
    const middleOf = (selector) => {
      const box = document.querySelector(selector)?.getBoundingClientRect();
      return box?.width ? [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)] : null;
    };
    const [x, y] = await this.waitFor(middleOf, selector);
    const actions = [
      { type: "pointerMove", x, y },
      { type: "pointerDown", button: 0 },
      { type: "pointerUp", button: 0 },
    ];
    await this.perform([{ type: "pointer", id: "mouse", actions }]);
  }

  /** Waits until the function returns something in the page, and returns that. */
  waitFor(look, ...args) {
    return eventually(() => this.evaluate(look, ...args), `${look} of ${args}`);
  }
}

export class FirefoxPage extends EnginePage {
  #socket;
  #context;
  #lastId = 0;
  #waiting = new Map();
  /** What the page has written to its console as errors and warnings. */
  complaints = [];

  static async launch(t) {
    const page = new FirefoxPage();
    const cleanups = cleanupsAfter(t);
    const home = await makeHome(cleanups);
    const args = ["--headless", "--remote-debugging-port=0", "--no-remote", "--profile", home];
    const options = { output: 2, env: { HOME: home } };
    const program = startProgram(cleanups, process.env.FIREFOX ?? "firefox-esr", args, options);
    const [, url] = await lineOf(program.stderr, /WebDriver BiDi listening on (\S+)/);
    page.#socket = new WebSocket(`${url}/session`);
    page.#socket.on("message", (data) => page.#onFrame(JSON.parse(data)));
    await once(page.#socket, "open");
    await page.#call("session.new", { capabilities: {} });
    await page.#call("session.subscribe", { events: ["log.entryAdded"] });
    // The first tab never has the focus, without which Enter presses no button.
    page.#context = (await page.#call("browsingContext.create", { type: "tab" })).context;
    return page;
  }

  #onFrame({ id, type, method, params, result, error, message }) {
    if (method === "log.entryAdded" && ["error", "warn"].includes(params.level)) this.complaints.push(params.text);
    const answer = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (type === "error") answer?.reject(new Error(`${error}: ${message}`));
    else answer?.resolve(result);
  }

  #call(method, params) {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ id, method, params }));
    });
  }

  goto(url) {
    return this.#call("browsingContext.navigate", { context: this.#context, url, wait: "complete" });
  }

  reload() {
    return this.#call("browsingContext.reload", { context: this.#context, wait: "complete" });
  }

  /** Calls a function in the page; arguments and the result are JSON. */
  async evaluate(run, ...args) {
    const { result, exceptionDetails } = await this.#call("script.evaluate", {
      expression: `(async () => JSON.stringify(await (${run})(...${JSON.stringify(args)})))()`,
      target: { context: this.#context },
      awaitPromise: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.text);
    return result.value === undefined ? undefined : JSON.parse(result.value);
  }

  perform(actions) {
    return this.#call("input.performActions", { context: this.#context, actions });
  }
}

export class WebKitPage extends EnginePage {
  #session;

  static async launch(t) {
    const page = new WebKitPage();
    // The engine needs a display; the driver opens the browser of its own package.
    const cleanups = cleanupsAfter(t);
    const home = await makeHome(cleanups);
    const screen = ["-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"];
    const display = startProgram(cleanups, "Xvfb", screen, { output: 1 });
    const [number] = await lineOf(display.stdout, /\d+/);
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const env = { DISPLAY: `:${number}`, HOME: home, XDG_RUNTIME_DIR: home, WEBKIT_DISABLE_DMABUF_RENDERER: "1" };
    startProgram(cleanups, process.env.WEBKIT_DRIVER ?? "WebKitWebDriver", [`--port=${port}`], { env });
    await eventually(() => fetch(`${url}/status`).catch(() => undefined), "WebKitWebDriver");
    page.#session = `${url}/session`;
    const { sessionId } = await page.#call("POST", "", { capabilities: { alwaysMatch: {} } });
    page.#session += `/${sessionId}`;
    cleanups.push(() => page.#call("DELETE", ""));
    return page;
  }

  async #call(method, path, body) {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(this.#session + path, { method, headers, ...(body && { body: JSON.stringify(body) }) });
    const { value } = await answer.json();
    if (!answer.ok) throw new Error(`${path}: ${value.error}: ${value.message}`);
    return value;
  }

  goto(url) {
    return this.#call("POST", "/url", { url });
  }

  reload() {
    return this.#call("POST", "/refresh", {});
  }

  evaluate(run, ...args) {
    return this.#call("POST", "/execute/sync", { script: `return (${run})(...arguments)`, args });
  }

  perform(actions) {
    return this.#call("POST", "/actions", { actions });
  }
}
