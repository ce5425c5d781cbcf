// Notices between the tabs of a browser about the outbox that they share.

import type { Acknowledged, OutboxEntry } from "../types.js";

export type TabNotice = { scope: string } & (
  | { type: "sent"; key: string; acked: Acknowledged }
  | { type: "failed"; key: string; error: NonNullable<OutboxEntry["error"]> }
  | { type: "retried"; key: string; time?: number }
  | { type: "discarded"; key: string }
  | { type: "cleared" }
);

/** Returns functions to notify the other tabs and to leave. Without `BroadcastChannel` both do nothing. */
export function joinTabs(onNotice: (notice: TabNotice) => void): { notify(notice: TabNotice): void; leave(): void } {
  if (!globalThis.BroadcastChannel) return { notify() {}, leave() {} };
  let channel: BroadcastChannel | undefined;
  const joinChannel = () => {
    const joinedChannel = new BroadcastChannel("switchboard.outbox");
    joinedChannel.onmessage = ({ data }) => onNotice(data as TabNotice);
    // In Node the channel must not keep the process alive.
    (joinedChannel as { unref?(): void }).unref?.();
    return joinedChannel;
  };
  channel = joinChannel();
  return {
    notify(notice) {
      if (channel) return channel.postMessage(notice);
      const once = joinChannel();
      once.postMessage(notice);
      once.close();
    },
    leave() {
      channel?.close();
      channel = undefined;
    },
  };
}
