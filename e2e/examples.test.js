// Runs every program in examples/, and checks that the examples do what they show.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { hostFiles } from "./host.js";
import { unexpectedConsoleMessages, freePort, launchBrowser, Person, Server } from "./support.js";

const runFile = promisify(execFile);
const examplesDirectory = fileURLToPath(new URL("../examples/", import.meta.url));
/** The server's URL in the examples, which a test replaces. */
const URL_IN_EXAMPLES = "http://127.0.0.1:9501";

let browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

async function makeTemporaryDirectory(t) {
  const path = await mkdtemp(join(tmpdir(), "switchboard-example-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Waits until a child process prints a line that matches. */
function untilPrinted(child, wanted) {
  return new Promise((resolve, reject) => {
    let said = "";
    const readOutput = (chunk) => {
      said += chunk;
      if (wanted.test(said)) resolve(said);
    };
    child.stdout.on("data", readOutput);
    child.stderr.on("data", readOutput);
    child.once("exit", (code) => reject(new Error(`it ended with ${code}:\n${said}`)));
  });
}

/** Sends enough messages to move the end of the list out of view. */
async function sendManyLines(server) {
  for (let n = 0; n < 60; n++) await server.posts("send", { as: "alice", to: "#general", text: `line ${n}` });
}

/** How many messages of #general the server counts as unread for bob. */
async function unreadCount(server) {
  const { conversations } = await server.posts("conversations", { as: "bob" });
  return conversations.find(({ conversation }) => conversation === "#general").unread;
}

/** Checks that bob's page marks messages as read when he scrolls to the end of the list. */
async function assertReadWhenSeen(server, bob) {
  await bob.page.getByText("alice: line 59", { exact: true }).waitFor();
  const unreadBefore = await unreadCount(server);
  assert.ok(unreadBefore >= 60, `${unreadBefore} unread before bob has scrolled`);
  await bob.page.getByLabel("Message").scrollIntoViewIfNeeded();
  while ((await unreadCount(server)) > 0) await bob.page.evaluate(() => new Promise(requestAnimationFrame));
}

test("a shop with a launcher and cards for orders", async (t) => {
  let server;
  const [page, script, style] = await Promise.all(
    ["index.html", "shop.js", "shop.css"].map((name) => readFile(`${examplesDirectory}launcher/${name}`, "utf8")),
  );
  const origin = await hostFiles(t, {
    "/": ["text/html", () => page.replaceAll(URL_IN_EXAMPLES, server.url)],
    "/shop.js": ["text/javascript", script],
    "/shop.css": ["text/css", style],
  });
  server = await Server.start(t, { env: { SWITCHBOARD_ALLOWED_ORIGINS: origin } });
  const alice = await Person.open(t, browser, { url: origin }, "alice", "/");
  const order = { number: 17, state: "Sent", items: ["2 × Sencha"], total: 31.8, currency: "EUR" };
  await server.posts("send", { as: "shop", to: "@alice", text: "Your order:", data: { order } });
  await alice.at("badge").getByText("1", { exact: true }).waitFor();
  await alice.at("launcher").click();
  await alice.page.getByText("Order 17").waitFor();
  // The card has the styles of the shop's page.
  const radius = await alice.page.locator(".order").evaluate((card) => getComputedStyle(card).borderRadius);
  assert.equal(radius, "12px");
  await alice.page.getByRole("button", { name: "Track it" }).click();
  await alice.page.getByText("Tracking order 17…").waitFor();
  // The list makes no second card for a message that changes otherwise.
  await server.posts("react", { as: "shop", conversation: "@alice", target: 1, emoji: "🎉" });
  await alice.at("reaction").waitFor();
  assert.equal(await alice.page.locator(".order").count(), 1);
  assert.deepEqual(unexpectedConsoleMessages([alice]), []);
});

test("a plain page", async (t) => {
  let server;
  const page = await readFile(`${examplesDirectory}html/index.html`, "utf8");
  const origin = await hostFiles(t, { "/": ["text/html", () => page.replaceAll(URL_IN_EXAMPLES, server.url)] });
  server = await Server.start(t, { env: { SWITCHBOARD_ALLOWED_ORIGINS: origin } });
  await sendManyLines(server);
  const alice = await Person.open(t, browser, { url: origin }, "alice", "/?user=alice");
  const bob = await Person.open(t, browser, { url: origin }, "bob", "/?user=bob");
  await alice.page.getByRole("status").getByText("online").waitFor();
  await alice.page.getByLabel("Message").fill("from the plain page");
  await alice.page.getByLabel("Message").press("Enter");
  await bob.page.getByText("alice: from the plain page", { exact: true }).waitFor();
  await alice.page.getByText("alice: from the plain page", { exact: true }).waitFor();
  await assertReadWhenSeen(server, bob);
  assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
});

for (const framework of ["React", "Vue", "Svelte"]) {
  test(framework, async (t) => {
    const outputDirectory = await makeTemporaryDirectory(t);
    const buildCommand = ["vite", "build", "--outDir", outputDirectory, "--emptyOutDir", "--logLevel", "error"];
    await runFile("npx", buildCommand, { cwd: `${examplesDirectory}${framework.toLowerCase()}` });
    const files = { "/": ["text/html", await readFile(join(outputDirectory, "index.html"))] };
    for (const name of await readdir(join(outputDirectory, "assets"))) {
      files[`/assets/${name}`] = ["text/javascript", await readFile(join(outputDirectory, "assets", name))];
    }
    const origin = await hostFiles(t, files);
    const server = await Server.start(t, { env: { SWITCHBOARD_ALLOWED_ORIGINS: origin } });
    await sendManyLines(server);
    const openExample = (name) =>
      Person.open(t, browser, { url: origin }, name, `/?user=${name}&server=${encodeURIComponent(server.url)}`);
    const [alice, bob] = [await openExample("alice"), await openExample("bob")];
    await alice.page.getByRole("status").getByText("online").waitFor();
    await bob.page.getByRole("status").getByText("online").waitFor();
    // The page shows for a few seconds only that a user is typing, so start waiting before alice types.
    const typing = bob.page.getByText("alice typing…").waitFor();
    await Promise.all([typing, alice.page.getByLabel("Message").pressSequentially("from an example")]);
    await alice.page.getByLabel("Message").press("Enter");
    await bob.page.getByText("alice: from an example", { exact: true }).waitFor();
    await alice.page.getByText("alice: from an example", { exact: true }).waitFor();
    await assertReadWhenSeen(server, bob);
    assert.deepEqual(unexpectedConsoleMessages([alice, bob]), []);
  });
}

test("a bot receives messages that were sent while it was down", async (t) => {
  const secret = "a secret of the tests that is long enough";
  const directory = await makeTemporaryDirectory(t);
  const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: secret } });
  await writeFile(join(directory, "secret"), `${secret}\n`);
  const env = {
    PATH: process.env.PATH,
    SWITCHBOARD_URL: server.url,
    SECRET_FILE: join(directory, "secret"),
    CURSORS_FILE: join(directory, "cursors.json"),
  };
  const startBot = async () => {
    const bot = spawn(process.execPath, [`${examplesDirectory}bot/bot.js`], { env, stdio: ["ignore", "pipe", "pipe"] });
    t.after(() => bot.kill("SIGKILL"));
    await untilPrinted(bot, /^online$/m);
    return { bot, ended: new Promise((resolve) => bot.once("exit", resolve)) };
  };
  const firstRun = await startBot();
  const alice = server.connects(t, "alice", { user: undefined, token: server.token("alice") });
  const room = alice.conversation("@bot");
  const answers = [];
  const nextAnswer = () =>
    new Promise((resolve) => {
      const stop = room.on("message", (message) => {
        if (message.from !== "bot") return;
        answers.push(message);
        queueMicrotask(() => stop());
        resolve(message);
      });
    });
  let answered = nextAnswer();
  const { seq } = await room.send("!time").acked;
  const { text, replyTo } = await answered;
  assert.equal(replyTo, seq);
  assert.ok(Math.abs(Date.parse(text) - Date.now()) < 60_000, text);
  firstRun.bot.kill("SIGTERM");
  assert.equal(await firstRun.ended, 0, "nothing keeps it running");
  answered = nextAnswer();
  const missedMessage = await room.send("!time").acked;
  const secondRun = await startBot();
  assert.equal((await answered).replyTo, missedMessage.seq);
  secondRun.bot.kill("SIGTERM");
  assert.equal(await secondRun.ended, 0);
});

test("a back end in PHP: a customer, the support desk, and messages of the system", async (t) => {
  const secret = "a secret of the tests that is long enough";
  const secretFile = join(await makeTemporaryDirectory(t), "secret");
  await writeFile(secretFile, `${secret}\n`);
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const server = await Server.start(t, {
    args: ["serve"],
    env: { SWITCHBOARD_AUTH_SECRET: secret, SWITCHBOARD_ALLOWED_ORIGINS: origin },
  });
  const key = await server.createKey("shop");
  const { PATH } = process.env;
  const env = { PATH, CHAT_SERVER: server.url, CHAT_SECRET_FILE: secretFile, CHAT_API_KEY: key, CHAT_DESK: "dora" };
  const php = spawn("php", ["-S", `127.0.0.1:${port}`, "-t", `${examplesDirectory}php`], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => php.kill("SIGKILL"));
  await untilPrinted(php, /started/);
  const signIn = async (name) => {
    const person = await Person.open(t, browser, { url: origin }, name, "/");
    assert.equal((await person.page.request.get("/token.php")).status(), 401);
    assert.equal((await person.page.request.get("/desk.php")).status(), 403);
    await person.page.getByLabel("Name").fill(name);
    await person.page.getByLabel("Name").press("Enter");
    return person;
  };

  const alice = await signIn("alice");
  await alice.at("composer").waitFor();
  await alice.says("Where is my order?");
  await alice.sees("Where is my order?");

  const notify = (...args) => runFile("php", [`${examplesDirectory}php/notify.php`, ...args], { env });
  const seq = Number((await notify("alice", "order-17", "On its way.")).stdout);
  await alice.sees("On its way.");
  assert.equal((await notify("alice", "order-17", "On its way.")).stdout, `${seq} (already stored)\n`);
  await assert.rejects(notify("alice", "order-17", "Another text."), /used for another message/);

  const dora = await signIn("dora");
  await dora.page.getByText("Support for alice: 2 unread").waitFor();
  await dora.page.getByRole("link", { name: "Support for alice" }).click();
  await dora.sees("Where is my order?");
  await dora.says("It comes tomorrow.");
  await alice.sees("It comes tomorrow.");
  const { messages } = await server.asUser("alice", "history", { conversation: "#support-alice" });
  assert.deepEqual(
    messages.map(({ from }) => from),
    ["alice", "shop", "dora"],
  );

  // Another desk: its members come into the room as soon as the customer's page is loaded.
  const laterEnvironment = { env: { ...env, CHAT_DESK: "dora,dan" } };
  await runFile("php", [`${examplesDirectory}php/notify.php`, "alice", "order-18", "And another."], laterEnvironment);
  const { members } = await server.asUser("alice", "members", { conversation: "#support-alice" });
  assert.deepEqual(members.map(({ user }) => user).sort(), ["alice", "dan", "dora", "shop"]);
  assert.equal((await alice.page.request.get("/desk.php")).status(), 403);
  // The app has no favicon, which browsers request automatically.
  assert.deepEqual(unexpectedConsoleMessages([alice, dora], /404/), []);
});
