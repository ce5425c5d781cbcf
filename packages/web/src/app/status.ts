// The texts of the connection states.

import type { ChatStatus } from "@switchboard/client";
import type { Key } from "../i18n/catalogue.js";

export const STATUS = {
  idle: "statusIdle",
  connecting: "statusConnecting",
  online: "statusOnline",
  offline: "statusOffline",
} as const satisfies Record<ChatStatus["state"], Key>;
