// The protocol's types that the fake server uses.

import type { Signal } from "../protocol.js";

export type { Command, ConversationId, Event, Limits, Permissions, Seq, StoredBody, UserId } from "../protocol.js";
export type Presence = Extract<Signal, { type: "presence" }>;
