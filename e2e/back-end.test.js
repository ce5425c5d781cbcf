// Runs the snippets of docs/back-end.md. For each language they are one program, which prints what the page says.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { connect } from "@switchboard/client";
import { Server } from "../packages/client/test/support.js";
import { freePort } from "./prometheus.js";

const runFile = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));
const SECRET = "a secret of the tests that is long enough";

/** The page's sections that have snippets: the text of the last block of each language. */
const page = await readFile(join(root, "docs/back-end.md"), "utf8");
const texts = page.split(/^## /m);
const isHook = (section) => section.startsWith("A hook\n");
const blocksOf = (section) =>
  Object.fromEntries(Array.from(section.matchAll(/^```(\w+)\n(.*?)^```$/gms), (m) => m.slice(1)));
const documentSections = texts
  .filter((section) => !isHook(section))
  .map(blocksOf)
  .filter((blocks) => Object.keys(blocks).length > 0);

/** Each language: how a program begins, how it prints a line between two sections, and what executes it. */
const languages = {
  php: { begin: "<?php\n", mark: 'echo "==\\n";', file: "main.php", command: "php" },
  python: { begin: "", mark: 'print("==")', file: "main.py", command: "python3" },
  js: { begin: "", mark: 'console.log("==");', file: "main.mjs", command: process.execPath },
  sh: { begin: "set -eu\n", mark: "echo; echo ==", file: "main.sh", command: "sh" },
};

/** A directory in which the packages are installed. */
async function makeProjectDirectory(t) {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-back-end-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await mkdir(join(directory, "vendor"));
  const autoload = join(root, "packages/php/autoload.php");
  await writeFile(join(directory, "vendor/autoload.php"), `<?php require ${JSON.stringify(autoload)};`);
  await symlink(join(root, "node_modules"), join(directory, "node_modules"));
  await writeFile(join(directory, "secret"), `${SECRET}\n`);
  return directory;
}

test("each section has every language", () => {
  assert.ok(documentSections.length >= 8, `${documentSections.length} sections`);
  for (const blocks of documentSections) {
    for (const language of Object.keys(languages)) assert.ok(blocks[language], JSON.stringify(blocks));
  }
});

for (const [language, { begin, mark, file, command }] of Object.entries(languages)) {
  test(`the snippets in ${language}`, async (t) => {
    const directory = await makeProjectDirectory(t);
    const server = await Server.start(t, { args: ["serve"], env: { SWITCHBOARD_AUTH_SECRET: SECRET } });
    const key = (await server.cli("key", "create", "shop", "--scope", "act,feed,moderate")).stdout
      .trim()
      .split("\n")
      .at(-1);
    const program = documentSections.map((blocks) => blocks[language]).join(`${mark}\n`);
    await writeFile(join(directory, file), begin + program);
    const binary = process.env.SWITCHBOARD_BINARY ?? join(root, "target/debug/switchboard");
    const { stdout } = await runFile(command, [file], {
      cwd: directory,
      env: {
        PATH: [dirname(binary), process.env.PATH].join(delimiter),
        PYTHONPATH: join(root, "packages/python/src"),
        PYTHONDONTWRITEBYTECODE: "1",
        CHAT_SERVER: server.url,
        CHAT_API_KEY: key,
        CHAT_SECRET_FILE: join(directory, "secret"),
      },
    });
    const printedSections = stdout.split(/^==$/m).map((part) => part.trim());
    const expectedSections = documentSections.map((blocks) =>
      (blocks[language === "sh" ? "json" : "text"] ?? "").trim(),
    );
    const maskTimes = (text) => text.replace(/"(at|id|next)":"[^"]*"/g, '"$1":"…"');
    assert.deepEqual(printedSections.map(maskTimes), expectedSections);
  });
}

const HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const hook = blocksOf(texts.find(isHook));

/** Resolves once a program listens at this port. */
async function untilListening(port) {
  while (
    !(await fetch(`http://127.0.0.1:${port}`, { method: "POST", body: "{}" }).then(
      () => true,
      () => false,
    ))
  ) {
    // waits for: the program's start, which nothing announces
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

for (const language of ["php", "python", "js"]) {
  test(`the hook in ${language} accepts, replaces and refuses`, async (t) => {
    const directory = await makeProjectDirectory(t);
    const { begin, file, command } = languages[language];
    await writeFile(join(directory, file), begin + hook[language]);
    await writeFile(join(directory, "hook"), HOOK_SECRET);
    const port = String(await freePort());
    const program = spawn(command, language === "php" ? ["-S", `127.0.0.1:${port}`, file] : [file], {
      cwd: directory,
      stdio: "ignore",
      env: {
        PATH: process.env.PATH,
        PYTHONPATH: join(root, "packages/python/src"),
        PYTHONDONTWRITEBYTECODE: "1",
        CHAT_HOOK_SECRET: HOOK_SECRET,
        PORT: port,
      },
    });
    t.after(() => program.kill());
    await untilListening(port);
    const server = await Server.start(t, {
      args: ["serve"],
      env: {
        SWITCHBOARD_AUTH_SECRET: SECRET,
        SWITCHBOARD_HOOKS_URL: `http://127.0.0.1:${port}/`,
        SWITCHBOARD_HOOKS_SECRET_FILE: join(directory, "hook"),
        SWITCHBOARD_HOOKS_ASK: "message",
        SWITCHBOARD_HOOKS_ON_FAILURE: "message=refuse",
        SWITCHBOARD_HOOKS_TIMEOUT: "10000",
      },
    });
    const chat = connect(server.url, { token: () => server.token("alice"), outbox: null });
    t.after(() => chat.close());
    const room = chat.conversation("@bob");
    room.messages.subscribe(() => {});
    const shownText = (key) => room.messages.getSnapshot().find((message) => message.key === key)?.text;
    const said = [];
    for (const text of ["hello", "call 5550100 now", "Best casino!"]) {
      const sent = room.send(text);
      await sent.acked.then(
        () => said.push(shownText(sent.key)),
        (error) => said.push(`${error.code}: ${error.message}`),
      );
    }
    assert.deepEqual(said, ["hello", "call *** now", "refused: No advertisements here."]);
  });
}
