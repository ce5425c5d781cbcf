// A fake server for tests of an app, in the same process. It follows docs/protocol.md, without sockets and timers.

import { type Chat, ChatError, type ChatOptions, connect, type WithData } from "@switchboard/client";
import type { ConversationId, Event, Limits, Message, Permissions, Seq, UserId } from "../protocol.js";
import { LIMITS } from "./limits.js";
import { parseCommand } from "./parse.js";
import { Refusal } from "./refusal.js";
import { executeCommand, PERMISSIONS } from "./session.js";
import { FakeSocket, ConnectionGroup, Network } from "./socket.js";
import { ServerState } from "./world.js";

export interface FakeServerOptions {
  /** Limits other than those of a `dev` server, by their names in docs/protocol.md: `{ replay: 50 }`. */
  limits?: Partial<Limits>;
  /**
   * What `welcome` says that users may do, by the names in docs/protocol.md: `{ create_rooms: false }`. Of these, the fake
   * server enforces `create_rooms` and `public_rooms`.
   */
  permissions?: Partial<Permissions>;
}

/** The value for the option `WebSocket` of `connect`. */
export type FakeWebSocket = NonNullable<ChatOptions["WebSocket"]>;

/** A group of connections that a test can cut without affecting others. */
export interface FakeConnectionGroup {
  readonly WebSocket: FakeWebSocket;
  /** Cuts the connections without a close frame, as a failing network does. They may be made again at once. */
  cut(): void;
  /** Cuts the connections, and refuses new ones until `goOnline`. */
  goOffline(): void;
  goOnline(): void;
}

export interface FakeServer {
  /** The URL for `connect`, together with `WebSocket`. */
  readonly url: string;
  readonly WebSocket: FakeWebSocket;
  /** The connected users, with one entry for each connection. */
  readonly connections: readonly UserId[];
  /** Makes a chat of a user. Its outbox is in memory, unless the options have another storage. */
  connect(user: UserId, options?: Partial<ChatOptions>): Chat;
  /**
   * Sends a command in a user's name, as a back end does over HTTP, and returns the fields of its `ok`:
   * `server.command("bob", "send", { to: "@alice", text: "hi" })`.
   *
   * @throws ChatError
   */
  command(user: UserId, type: string, fields?: object): Record<string, unknown>;
  /**
   * The messages of a conversation in their current state, oldest first, and its raw log.
   *
   * @throws ChatError `not_found` if there is no conversation with this id (`#general` or `@alice:bob`)
   */
  history(conversation: ConversationId): readonly WithData<Message>[];
  log(conversation: ConversationId): readonly WithData<Event>[];
  /** Makes a separate group of connections, which a test can cut alone. */
  connectionGroup(): FakeConnectionGroup;
  /** Cuts the connections of all users, or of one. */
  cut(user?: UserId): void;
  /** Closes connections with a close code of the protocol, such as 4502. */
  close(code: number, reason?: string, user?: UserId): void;
  /** Stops like a server that restarts: sends `bye`, closes with 1012, and refuses connections until `start`. */
  stop(retryAfter?: number): void;
  start(): void;
  /** Delays all frames in both directions until `resume`. Connections stay open. */
  pause(): void;
  resume(): void;
  /** Removes the events after `head` from a log, like a server that was restored from an older backup. */
  restore(conversation: ConversationId, head: Seq): void;
}

/** The number of started servers. Each gets another address, so that data that is stored by address (an outbox) is not shared. */
let startedServers = 0;

/** Starts a fake server. It need not be stopped: it is garbage when nothing refers to it. */
export function fakeServer({ limits, permissions }: FakeServerOptions = {}): FakeServer {
  const world = new ServerState({ ...LIMITS, ...limits }, { ...PERMISSIONS, ...permissions });
  const network = new Network();
  const url = `ws://${++startedServers}.switchboard.test`;
  const socketsOf = (user?: UserId) =>
    [...network.sockets].filter(({ session }) => user === undefined || session?.user === user);
  const newConnectionGroup = () => fakeConnectionGroup(world, network);
  const { WebSocket } = newConnectionGroup();
  const findLog = (id: ConversationId) => {
    const found = world.logs.get(id);
    if (!found) throw new Refusal("not_found", `there is no conversation ${id}`).chatError;
    return found;
  };
  return {
    url,
    WebSocket,
    connectionGroup: newConnectionGroup,
    get connections() {
      return [...world.clients].map(({ user }) => user as UserId);
    },
    connect(user, options = {}) {
      const credentials = options.token === undefined ? { user } : {};
      return connect(url, { outbox: null, WebSocket, ...credentials, ...options });
    },
    command(user, type, fields = {}) {
      const frame = asReceived({ ...fields, type });
      try {
        const body = executeCommand(world, user, parseCommand(frame, world.limits));
        return JSON.parse(JSON.stringify(body)) as Record<string, unknown>;
      } catch (error) {
        throw error instanceof Refusal ? error.chatError : error;
      }
    },
    history: (id) => structuredClone(findLog(id).messages) as WithData<Message>[],
    log: (id) => structuredClone(findLog(id).events) as WithData<Event>[],
    cut: (user) => network.cut(socketsOf(user)),
    close: (code, reason = "", user) => network.cut(socketsOf(user), code, reason),
    stop(retryAfter = 0) {
      network.isReachable = false;
      for (const socket of socketsOf()) {
        socket.push({ type: "bye", retry_after: retryAfter });
        socket.closeByServer(1012, "the server stops");
      }
    },
    start: () => void (network.isReachable = true),
    pause: () => network.pause(),
    resume: () => network.resume(),
    restore: (id, head) => findLog(id).truncate(head),
  };
}

/** The frame as a server receives it: after encoding and decoding as JSON. */
function asReceived(frame: object): Record<string, unknown> {
  try {
    return JSON.parse(JSON.stringify(frame)) as Record<string, unknown>;
  } catch (cause) {
    throw new ChatError({ code: "invalid", message: `this command is not JSON: ${cause}`, retryable: false, cause });
  }
}

function fakeConnectionGroup(world: ServerState, network: Network): FakeConnectionGroup {
  const line = new ConnectionGroup();
  class WebSocket extends FakeSocket {
    constructor(url: string) {
      super(network, line, world, url);
    }
  }
  return {
    WebSocket: WebSocket as unknown as FakeWebSocket,
    cut: () => network.cut(line.sockets),
    goOffline() {
      line.isReachable = false;
      network.cut(line.sockets);
    },
    goOnline: () => void (line.isReachable = true),
  };
}
