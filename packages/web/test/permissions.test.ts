// Tests of which users the page offers to write to.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ChatPermissions } from "@switchboard/client";
import { mayContact, mayStart } from "../src/app/permissions.js";

const permissions = (contact: string[], more: Partial<ChatPermissions> = {}): ChatPermissions => ({
  createRooms: false,
  publicRooms: false,
  invite: "admins",
  contact,
  others: "refuse",
  directory: "off",
  ...more,
});

test("an entry of `contact` is an id, a pattern, or a word", () => {
  const cases: [entry: string, user: string, expected: boolean][] = [
    ["bob", "bob", true],
    ["bob", "bobby", false],
    ["agent_*", "agent_7", true],
    ["agent_*", "agent_", true],
    ["agent_*", "an_agent_7", false],
    ["*_agent", "an_agent", true],
    ["a*b*c", "a.c.b.c", true],
    ["a*b*c", "a.c", false],
    ["ab*ba", "aba", false],
    ["*", "zoe", true],
    ["*.*", "a+b", false],
    ["all", "zoe", true],
    ["shared", "zoe", true],
  ];
  for (const [entry, user, expected] of cases) {
    assert.equal(mayContact(permissions([entry]), user), expected, `${entry} ${user}`);
  }
});

test("a server that does not say permissions permits, and an empty list permits nobody", () => {
  assert.ok(mayContact(undefined, "zoe") && mayStart(undefined));
  assert.ok(!mayContact(permissions([]), "zoe"));
  assert.ok(!mayStart(permissions([])));
  assert.ok(mayStart(permissions([], { createRooms: true })) && mayStart(permissions(["agent_*"])));
});
