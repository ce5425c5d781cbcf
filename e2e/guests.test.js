// Runs the programs of docs/people.md, in which a visitor without an account writes and then signs up.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { blocksOf, languages, makeProjectDirectory, programEnvironment, root, startServer } from "./snippets.js";

const page = await readFile(join(root, "docs/people.md"), "utf8");
const guests = blocksOf(page.split(/^## /m).find((section) => section.startsWith("Guests\n")));

for (const language of ["php", "js"]) {
  test(`a guest keeps the id and the conversation as an account, in ${language}`, async (t) => {
    const directory = await makeProjectDirectory(t);
    const server = await startServer(t, directory);
    const { begin, file, command } = languages[language];
    await writeFile(join(directory, file), begin + guests[language]);
    const CHAT_API_KEY = await server.createKey("shop", "--scope", "act,people");
    const { stdout } = await promisify(execFile)(command, [file], {
      cwd: directory,
      env: programEnvironment(directory, { CHAT_SERVER: server.url, CHAT_API_KEY }),
    });
    assert.equal(stdout, guests.text);
    const { conversations } = await server.asUser("shop", "conversations", {});
    assert.equal(conversations.length, 1);
    assert.match(conversations[0].conversation, /^@shop:usr_[0-9a-f-]{16,}$/);
  });
}
