// A page for the tests of React and Vue, and a server whose connections are counted.

import { JSDOM } from "jsdom";
import { act } from "react";
import { fakeServer } from "@switchboard/client/testing";

const { window } = new JSDOM("<!doctype html><body></body>", { url: "https://app.example", pretendToBeVisual: true });
const globalNames = [
  "window",
  "navigator",
  "document",
  "Node",
  "Text",
  "Comment",
  "Element",
  "HTMLElement",
  "SVGElement",
  "HTMLIFrameElement",
  "Event",
];
for (const name of globalNames) globalThis[name] ??= name === "window" ? window : window[name];

/** The fake observers of what is in view. A test controls them: `scroll(true)` brings everything into view. */
const intersectionObservers = new Set();
let inView = false;
globalThis.IntersectionObserver = class {
  constructor(callback) {
    this.callback = callback;
  }
  // A real observer reports where an element is as soon as the page was drawn.
  observe() {
    intersectionObservers.add(this);
    queueMicrotask(() => this.tell());
  }
  unobserve() {
    intersectionObservers.delete(this);
  }
  disconnect() {
    intersectionObservers.delete(this);
  }
  tell() {
    if (intersectionObservers.has(this)) this.callback([{ isIntersecting: inView }]);
  }
};
export function scrollIntoView(onIntoView) {
  inView = onIntoView;
  for (const observer of intersectionObservers) observer.tell();
}

/** Makes the page visible or hidden. */
export function setPageVisible(visible) {
  Object.defineProperty(document, "visibilityState", { value: visible ? "visible" : "hidden", configurable: true });
  document.dispatchEvent(new window.Event("visibilitychange"));
}

export function addContainer(html = "") {
  const element = document.createElement("div");
  element.innerHTML = html;
  document.body.append(element);
  return element;
}

/** A server with two rooms of alice and bob; `opened` counts the attempts to connect. */
export function serverWithConnectionCount() {
  const server = fakeServer();
  const connectionCounts = { opened: 0 };
  class CountingWebSocket extends server.WebSocket {
    constructor(url) {
      super(url);
      connectionCounts.opened++;
    }
  }
  for (const room of ["team", "other"]) {
    server.command("alice", "create", { room, members: ["bob"] });
    server.command("bob", "send", { to: `#${room}`, text: `hi from ${room}` });
  }
  return { server, counts: connectionCounts, options: { user: "alice", WebSocket: CountingWebSocket, outbox: null } };
}

/** Runs React's `act`. Outside of it React renders as in a browser, without warnings. */
export async function runInAct(run) {
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  try {
    return await act(run);
  } finally {
    globalThis.IS_REACT_ACT_ENVIRONMENT = false;
  }
}

/** Collects the errors that are written to the console during a test. */
export function consoleErrors(t) {
  const errors = [];
  for (const name of ["error", "warn"]) t.mock.method(console, name, (...args) => errors.push(args.join(" ")));
  return errors;
}
