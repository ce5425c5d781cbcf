// The cursors of `examples/bot`, in the file that it shares with bots of other servers.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, watch, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Server } from "./support.js";

const BOT_SCRIPT = fileURLToPath(new URL("../../../examples/bot/bot.js", import.meta.url));

/** Makes a directory, and a function that starts the bot with its cursors in `file`. */
async function startServerAndBotStarter(t) {
  const server = await Server.start(t);
  const directory = await mkdtemp(join(tmpdir(), "switchboard-bot-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const startBot = (file) => {
    const env = { ...process.env, SWITCHBOARD_URL: server.url, CURSORS_FILE: file };
    const bot = spawn(process.execPath, [BOT_SCRIPT], { env, stdio: ["ignore", "ignore", "pipe"] });
    t.after(async () => {
      if (bot.exitCode !== null || bot.signalCode !== null) return;
      bot.kill("SIGKILL");
      await once(bot, "exit");
    });
    return bot;
  };
  return { directory, start: startBot };
}

test("the bot keeps the cursors of other scopes", async (t) => {
  const { directory, start } = await startServerAndBotStarter(t);
  const file = join(directory, "cursors.json");
  await writeFile(file, '{"another server":{"#general":7}}');
  const directoryChanges = watch(directory, { signal: AbortSignal.timeout(30_000) });
  start(file);
  let kept;
  for await (const { filename } of directoryChanges) {
    if (filename !== "cursors.json") continue;
    kept = JSON.parse(await readFile(file, "utf8"));
    break;
  }
  assert.equal(Object.keys(kept).length, 2);
  assert.deepEqual(kept["another server"], { "#general": 7 });
});

test("the bot says that its cursors cannot be read", { timeout: 30_000 }, async (t) => {
  const { directory, start } = await startServerAndBotStarter(t);
  // The path is a directory, which can be opened but not read.
  const bot = start(directory);
  let said = "";
  for await (const text of bot.stderr) if ((said += text).includes("cannot be loaded")) break;
  assert.match(said, /cursors cannot be loaded/);
});
