// Runs examples/php-tutorial: PHP, the server with the tutorial's configuration, and two browsers.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { freePort, launchBrowser, Person, Server } from "./support.js";

const directory = fileURLToPath(new URL("../examples/php-tutorial/", import.meta.url));
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

test("the tutorial has at most 60 lines of 100 characters", async () => {
  const lines = (await readFile(join(directory, "chat.php"), "utf8")).trimEnd().split("\n");
  assert.ok(lines.length <= 60, `${lines.length} lines`);
  assert.deepEqual(
    lines.filter((line) => line.length > 100),
    [],
  );
});

/** Starts the server with the tutorial's configuration, for a PHP at another address. */
async function startServer(t, origin) {
  const data = await mkdtemp(join(tmpdir(), "switchboard-tutorial-"));
  t.after(() => rm(data, { recursive: true, force: true }));
  const secretFiles = {};
  for (const [name, setting] of [
    ["secret", "AUTH"],
    ["hook", "HOOKS"],
    ["webhooks", "WEBHOOKS"],
  ]) {
    secretFiles[`SWITCHBOARD_${setting}_SECRET_FILE`] = join(data, name);
    await writeFile(join(data, name), SECRET);
  }
  const server = await Server.start(t, {
    args: ["serve"],
    env: {
      ...secretFiles,
      SWITCHBOARD_CONFIG: join(directory, "switchboard.toml"),
      SWITCHBOARD_ALLOWED_ORIGINS: origin,
      SWITCHBOARD_HOOKS_URL: `${origin}/`,
    },
  });
  const added = await server.cli("webhook", "add", "tutorial", `${origin}/`, "--types", "user.offline");
  const env = {
    PATH: process.env.PATH,
    CHAT_SERVER: server.url,
    CHAT_SECRET_FILE: join(data, "secret"),
    CHAT_HOOK_SECRET: SECRET,
    CHAT_API_KEY: await server.createKey("tutorial", "--unasked"),
    CHAT_WEBHOOK_SECRET: added.stdout.trim().split("\n").at(-1),
  };
  return { server, env };
}

/** Starts the tutorial's PHP. */
async function startPhp(t, port, env) {
  const php = spawn("php", ["-S", `127.0.0.1:${port}`, join(directory, "chat.php")], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  t.after(() => php.kill("SIGKILL"));
  const lines = createInterface({ input: php.stderr });
  while (!/started$/.test((await once(lines, "line"))[0]));
  php.stop = async () => {
    php.kill("SIGKILL");
    await once(php, "exit");
  };
  return php;
}

/** A user in a browser of their own. */
async function enter(t, origin, name) {
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const person = await Person.open(t, browser, { url: origin }, name, "/");
  await person.page.getByLabel("Name").fill(name);
  await person.page.getByLabel("Name").press("Enter");
  await person.at("composer").waitFor();
  return person;
}

test("two browsers lose no message while the server and PHP are killed", async (t) => {
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const { server, env } = await startServer(t, origin);
  const php = await startPhp(t, port, env);
  const alice = await enter(t, origin, "alice");
  const bob = await enter(t, origin, "bob");
  await alice.says("hello");
  await bob.sees("hello");
  await bob.says("damn slow");
  await alice.sees("d*** slow");
  await alice.says("Best casino!");
  await alice.page.getByText("No advertisements here.").first().waitFor();

  await server.kill();
  await php.stop();
  const written = [];
  for (let number = 1; number <= 5; number++) {
    for (const person of [alice, bob]) {
      written.push(`${person.name} ${number}`);
      await person.says(written.at(-1));
    }
  }
  await server.start();
  await startPhp(t, port, env);
  for (const person of [alice, bob]) for (const text of written) await person.sees(text);

  await alice.page.close();
  await bob.sees("alice has left.");
  const texts = await bob.texts();
  const wanted = ["hello", "d*** slow", ...written, "alice has left."];
  assert.deepEqual([...texts].sort(), [...wanted].sort(), "each once, and nothing else");
  for (const name of ["alice", "bob"]) {
    const own = texts.filter((text) => text.startsWith(`${name} `) && text !== "alice has left.");
    assert.deepEqual(
      own,
      written.filter((text) => text.startsWith(name)),
      "in order",
    );
  }
});
