// Opens every view of the page with example data, for screenshots and for tests of all views.

import { Person } from "./support.js";

/** Example messages, reactions and edits in a room. */
async function sendExampleMessages(server) {
  const sendAs = (as, text, more) => server.posts("send", { as, to: "#general", text, ...more });
  await server.posts("invite", { as: "alice", conversation: "#general", user: "carol" });
  const questionMessage = await sendAs("bob", "Did the **release** go out? The list is in `CHANGELOG.md`.");
  await sendAs("alice", "It did, an hour ago 🎉", { reply_to: questionMessage.seq });
  await sendAs("alice", "Three things to look at:\n- the *page*\n- the SDK\n- https://example.org/notes");
  const codeMessage = await sendAs(
    "carol",
    'And this is all it takes:\n```js\nconst chat = connect("wss://chat.example", { token });\nchat.conversation("#general").send("hi");\n```',
  );
  await server.posts("react", { as: "alice", conversation: "#general", target: codeMessage.seq, emoji: "❤️" });
  await server.posts("react", { as: "bob", conversation: "#general", target: codeMessage.seq, emoji: "❤️" });
  await server.posts("react", { as: "bob", conversation: "#general", target: questionMessage.seq, emoji: "👀" });
  const messageWithTypo = await sendAs("bob", "Then I take tomorow off.");
  await server.posts("edit", {
    as: "bob",
    conversation: "#general",
    target: messageWithTypo.seq,
    text: "Then I take tomorrow off.",
  });
  const deletedMessage = await sendAs("carol", "never mind");
  await server.posts("delete", { as: "carol", conversation: "#general", target: deletedMessage.seq });
  await sendAs("carol", "Thank you all, شكرا 👋");
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
export async function visitEveryView(t, browser, server, options, look) {
  await sendExampleMessages(server);
  const openAndLook = async (person, name) => {
    // Nothing is under the pointer, so that no view has a bar of quick reactions by chance.
    await person.page.mouse.move(0, 0);
    await look(name, person.page);
  };

  const stranger = await Person.open(t, browser, server, "nobody", "/", options);
  await stranger.at("signin-name").waitFor();
  await openAndLook(stranger, "sign-in");

  // Another user is online, so that the list shows both states.
  const bob = await Person.arrive(t, browser, server, "bob", options);
  const alice = await Person.arrive(t, browser, server, "alice", options);
  await alice.conversation("#general").waitFor();
  await openAndLook(alice, "conversations");
  await alice.opens("#general");
  await alice.at("unread-line").waitFor();
  await openAndLook(alice, "room");

  const message = alice.page.locator("[data-testid=message]").filter({ hasText: "release" }).first();
  await message.focus();
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("menu").waitFor();
  await openAndLook(alice, "message-menu");
  await alice.page.getByRole("menuitem", { name: "More reactions" }).click();
  await alice.at("emoji-picker").waitFor();
  await openAndLook(alice, "emoji-picker");
  await alice.page.keyboard.press("Escape");

  await message.focus();
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("menuitem", { name: "Reply" }).click();
  await openAndLook(alice, "reply");
  await alice.page.keyboard.press("Escape");

  const ownMessage = alice.page.locator("[data-testid=message]").filter({ hasText: "an hour ago" }).first();
  await ownMessage.focus();
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("menuitem", { name: "Delete" }).click();
  await alice.at("confirm").waitFor();
  await openAndLook(alice, "delete");
  await alice.page.keyboard.press("Escape");

  await alice.at("room-menu").click();
  await alice.page.getByRole("menu").waitFor();
  await openAndLook(alice, "room-menu");
  await alice.page.getByRole("menuitem", { name: "Members" }).click();
  await alice.at("members").waitFor();
  await openAndLook(alice, "members");
  await alice.page.keyboard.press("Escape");

  await alice.at("composer").fill("hi @");
  await alice.at("composer").press("b");
  await alice.page.getByRole("listbox").waitFor();
  await openAndLook(alice, "mention");
  await alice.at("composer").fill("");

  await alice.at("jump").click();
  await alice.sees("Thank you all, شكرا 👋");
  await alice.at("jump").waitFor({ state: "detached" });
  await openAndLook(alice, "latest");

  const backButton = alice.at("back");
  const isPhone = await backButton.isVisible();
  if (isPhone) await backButton.click();
  await alice.at("new-conversation").click();
  await alice.at("new-name").waitFor();
  await openAndLook(alice, "new-conversation");
  await alice.page.getByText("Create a room").click();
  await alice.at("new-title").waitFor();
  await openAndLook(alice, "new-room");
  await alice.page.keyboard.press("Escape");
  await alice.at("settings").click();
  await alice.at("theme").waitFor();
  await openAndLook(alice, "settings");
  await alice.page.keyboard.press("Escape");

  await alice.opens("@alice:bob");
  await alice.says("With pleasure.");
  await alice.sees("With pleasure.");
  await bob.opens("@alice:bob");
  await alice.at("receipt").filter({ hasText: "read" }).waitFor();
  await Promise.all([alice.reads("typing", "bob is typing…"), bob.at("composer").pressSequentially("See you")]);
  await openAndLook(alice, "direct");

  // The last view is a message that waits for a connection, because this stops the server.
  await server.kill();
  await alice.at("banner").waitFor();
  await alice.says("Are you there?");
  await openAndLook(alice, "offline");
}
