// What an object of a conversation takes from another object of the same conversation when it is merged into that one.

export const MERGED_METHODS = [
  "send",
  "outgoing",
  "edit",
  "deleteMessage",
  "react",
  "join",
  "leave",
  "invite",
  "removeMember",
  "setRole",
  "rename",
  "markRead",
  "loadOlder",
  "around",
  "release",
  "on",
] as const;

export const MERGED_STORES = ["messages", "timeline", "hasOlder", "info", "state", "members", "typing"] as const;
