// A WebSocket without a network.

import type { ServerState } from "./world.js";
import { Session } from "./session.js";

/** The network between server and sockets: decides when frames arrive. */
export class Network {
  readonly sockets = new Set<FakeSocket>();
  isReachable = true;
  #heldDeliveries: (() => void)[] | undefined;

  /** Delays all frames until `resume`. */
  pause(): void {
    this.#heldDeliveries ??= [];
  }

  resume(): void {
    const heldDeliveries = this.#heldDeliveries ?? [];
    this.#heldDeliveries = undefined;
    for (const arrive of heldDeliveries) this.deliver(arrive);
  }

  /** Delivers in a microtask, in order, without using a clock. */
  deliver(arrive: () => void): void {
    queueMicrotask(() => (this.#heldDeliveries ? this.#heldDeliveries.push(arrive) : arrive()));
  }

  cut(sockets: Iterable<FakeSocket>, code = 1006, reason = ""): void {
    for (const socket of [...sockets]) socket.cut(code, reason);
  }
}

/** The sockets of some connections, which a test can cut together. */
export class ConnectionGroup {
  readonly sockets = new Set<FakeSocket>();
  isReachable = true;
}

type Handler = ((event: never) => void) | null;

export class FakeSocket {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSING = 2;
  static readonly CLOSED = 3;
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSING = 2;
  readonly CLOSED = 3;

  readonly url: string;
  readonly protocol = "switchboard.v1";
  readonly extensions = "";
  readonly bufferedAmount = 0;
  binaryType = "blob";
  readyState = 0;
  onopen: Handler = null;
  onmessage: Handler = null;
  onclose: Handler = null;
  onerror: Handler = null;
  session: Session | undefined;
  #network: Network;
  #group: ConnectionGroup;
  #listeners = new Map<string, Set<Handler>>();

  constructor(network: Network, line: ConnectionGroup, world: ServerState, url: string) {
    this.url = String(url);
    this.#network = network;
    this.#group = line;
    network.sockets.add(this);
    line.sockets.add(this);
    network.deliver(() => {
      if (this.readyState !== 0) return;
      if (!network.isReachable || !line.isReachable) {
        this.#emit("error", {});
        return this.#finishClose(1006, "", false);
      }
      this.readyState = 1;
      this.session = new Session(world, this);
      this.#emit("open", {});
    });
  }

  addEventListener(type: string, listener: Handler): void {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
  }

  removeEventListener(type: string, listener: Handler): void {
    this.#listeners.get(type)?.delete(listener);
  }

  send(data: string): void {
    if (this.readyState === 0) throw new DOMException("not open yet", "InvalidStateError");
    if (this.readyState === 1) this.#network.deliver(() => this.readyState < 3 && this.session?.onData(data));
  }

  close(code = 1000, reason = ""): void {
    if (this.readyState >= 2) return;
    this.readyState = 2;
    this.#network.deliver(() => this.#finishClose(code, reason, true));
  }

  // ---- Methods for the server.

  /** Sends a frame to the client. */
  push(frame: object): void {
    const data = JSON.stringify(frame);
    this.#network.deliver(() => this.readyState === 1 && this.#emit("message", { data }));
  }

  /** Closes the connection from the server's side, after all sent frames. */
  closeByServer(code: number, reason: string): void {
    this.#network.deliver(() => this.#finishClose(code, reason, true));
  }

  /** Ends the connection at once; frames in flight are lost. */
  cut(code: number, reason: string): void {
    if (this.readyState === 3) return;
    this.#detach();
    queueMicrotask(() => this.#emit("close", { code, reason, wasClean: code !== 1006 }));
  }

  #finishClose(code: number, reason: string, wasClean: boolean): void {
    if (this.readyState === 3) return;
    this.#detach();
    this.#emit("close", { code, reason, wasClean });
  }

  #detach(): void {
    this.readyState = 3;
    this.#network.sockets.delete(this);
    this.#group.sockets.delete(this);
    this.session?.onClose();
  }

  #emit(type: "open" | "message" | "close" | "error", fields: object): void {
    const event = { type, target: this, ...fields } as never;
    const handlers = [this[`on${type}`], ...(this.#listeners.get(type) ?? [])];
    for (const handler of handlers) handler?.(event);
  }
}
