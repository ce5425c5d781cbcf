// The answers to commands, by what they are about.

import type { OkBody } from "./protocol.js";

type With<T> = Extract<OkBody, T>;
export type StoredBody = With<{ at: unknown }>;
export type LogBody = With<{ events: unknown }>;
export type HistoryBody = With<{ messages: unknown }>;
export type MembersBody = With<{ conversation: unknown; members: unknown }>;
export type ConversationsBody = With<{ conversations: unknown }>;
