// Opens every view of the page with example data, for screenshots and for tests of all views.

import { Person } from "./support.js";

/** Example messages, reactions and edits in a room. */
async function furnish(server) {
  const say = (as, text, more) => server.posts("send", { as, to: "#general", text, ...more });
  await server.posts("invite", { as: "alice", conversation: "#general", user: "carol" });
  const question = await say("bob", "Did the **release** go out? The list is in `CHANGELOG.md`.");
  await say("alice", "It did, an hour ago 🎉", { reply_to: question.seq });
  await say("alice", "Three things to look at:\n- the *page*\n- the SDK\n- https://example.org/notes");
  const code = await say(
    "carol",
    'And this is all it takes:\n```js\nconst chat = connect("wss://chat.example", { token });\nchat.conversation("#general").send("hi");\n```',
  );
  await server.posts("react", { as: "alice", conversation: "#general", target: code.seq, emoji: "❤️" });
  await server.posts("react", { as: "bob", conversation: "#general", target: code.seq, emoji: "❤️" });
  await server.posts("react", { as: "bob", conversation: "#general", target: question.seq, emoji: "👀" });
  const typo = await say("bob", "Then I take tomorow off.");
  await server.posts("edit", {
    as: "bob",
    conversation: "#general",
    target: typo.seq,
    text: "Then I take tomorrow off.",
  });
  const gone = await say("carol", "never mind");
  await server.posts("delete", { as: "carol", conversation: "#general", target: gone.seq });
  await say("carol", "Thank you all, شكرا 👋");
  await server.posts("send", { as: "bob", to: "@alice", text: "Lunch at one?" });
  await server.posts("send", { as: "dana", to: "@alice", text: "The contract is signed." });
  await server.posts("create", {
    as: "alice",
    room: "design",
    title: "Design",
    members: ["bob", "carol", "dana"],
    public: true,
  });
  await server.posts("send", { as: "dana", to: "#design", text: "New icons are in." });
}

/** Opens each view and calls `look(name, page)`. */
export async function views(t, browser, server, options, look) {
  await furnish(server);
  const see = async (person, name) => {
    // Nothing is under the pointer, so that no view has a bar of quick reactions by chance.
    await person.page.mouse.move(0, 0);
    await look(name, person.page);
  };

  const stranger = await Person.open(t, browser, server, "nobody", "/", options);
  await stranger.at("signin-name").waitFor();
  await see(stranger, "sign-in");

  // Another user is online, so that the list shows both states.
  const bob = await Person.arrive(t, browser, server, "bob", options);
  const alice = await Person.arrive(t, browser, server, "alice", options);
  await alice.conversation("#general").waitFor();
  await see(alice, "conversations");
  await alice.opens("#general");
  await alice.at("unread-line").waitFor();
  await see(alice, "room");

  const message = alice.page.locator("[data-testid=message]").filter({ hasText: "release" }).first();
  await message.focus();
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("menu").waitFor();
  await see(alice, "message-menu");
  await alice.page.getByRole("menuitem", { name: "More reactions" }).click();
  await alice.at("emoji-picker").waitFor();
  await see(alice, "emoji-picker");
  await alice.page.keyboard.press("Escape");

  await message.focus();
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("menuitem", { name: "Reply" }).click();
  await see(alice, "reply");
  await alice.page.keyboard.press("Escape");

  const own = alice.page.locator("[data-testid=message]").filter({ hasText: "an hour ago" }).first();
  await own.focus();
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("menuitem", { name: "Delete" }).click();
  await alice.at("confirm").waitFor();
  await see(alice, "delete");
  await alice.page.keyboard.press("Escape");

  await alice.at("room-menu").click();
  await alice.page.getByRole("menu").waitFor();
  await see(alice, "room-menu");
  await alice.page.getByRole("menuitem", { name: "Members" }).click();
  await alice.at("members").waitFor();
  await see(alice, "members");
  await alice.page.keyboard.press("Escape");

  await alice.at("composer").fill("hi @");
  await alice.at("composer").press("b");
  await alice.page.getByRole("listbox").waitFor();
  await see(alice, "mention");
  await alice.at("composer").fill("");

  await alice.at("jump").click();
  await alice.sees("Thank you all, شكرا 👋");
  await alice.at("jump").waitFor({ state: "detached" });
  await see(alice, "latest");

  const back = alice.at("back");
  const phone = await back.isVisible();
  if (phone) await back.click();
  await alice.at("new-conversation").click();
  await alice.at("new-name").waitFor();
  await see(alice, "new-conversation");
  await alice.page.getByText("Create a room").click();
  await alice.at("new-title").waitFor();
  await see(alice, "new-room");
  await alice.page.keyboard.press("Escape");
  await alice.at("settings").click();
  await alice.at("theme").waitFor();
  await see(alice, "settings");
  await alice.page.keyboard.press("Escape");

  await alice.opens("@alice:bob");
  await alice.says("With pleasure.");
  await alice.sees("With pleasure.");
  await bob.opens("@alice:bob");
  await alice.at("receipt").filter({ hasText: "read" }).waitFor();
  await Promise.all([alice.reads("typing", "bob is typing…"), bob.at("composer").pressSequentially("See you")]);
  await see(alice, "direct");

  // The last view is a message that waits for a connection, because this stops the server.
  await server.kill();
  await alice.at("banner").waitFor();
  await alice.says("Are you there?");
  await see(alice, "offline");
}
