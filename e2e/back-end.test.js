// Runs the snippets of docs/back-end.md. For each language they are one program, which prints what the page says.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { connect } from "@switchboard/client";
import {
  blocksOf,
  languages,
  makeProjectDirectory,
  programEnvironment,
  root,
  startListeningProgram,
  startServer,
} from "./snippets.js";
import { eventually } from "./support.js";

const runFile = promisify(execFile);

/** The page's sections that have snippets. Two have programs of their own. */
const page = await readFile(join(root, "docs/back-end.md"), "utf8");
const texts = page.split(/^## /m);
const programSections = ["An endpoint\n", "A hook\n"];
const isProgram = (section) => programSections.some((title) => section.startsWith(title));
const [endpoint, hook] = programSections.map((title) => blocksOf(texts.find((section) => section.startsWith(title))));
const documentSections = texts
  .filter((section) => !isProgram(section))
  .map(blocksOf)
  .filter((blocks) => Object.keys(blocks).length > 0);

test("each section has every language", () => {
  assert.ok(documentSections.length >= 10, `${documentSections.length} sections`);
  for (const blocks of documentSections) {
    for (const language of Object.keys(languages)) assert.ok(blocks[language], JSON.stringify(blocks));
  }
});

for (const [language, { begin, mark, file, command }] of Object.entries(languages)) {
  test(`the snippets in ${language}`, async (t) => {
    const directory = await makeProjectDirectory(t);
    const server = await startServer(t, directory);
    const program = documentSections.map((blocks) => blocks[language]).join(`${mark}\n`);
    await writeFile(join(directory, file), begin + program);
    const { stdout } = await runFile(command, [file], {
      cwd: directory,
      env: programEnvironment(directory, {
        CHAT_SERVER: server.url,
        CHAT_API_KEY: await server.createKey("shop", "--scope", "act,feed,people,moderate"),
        CHAT_ADMIN_KEY: await server.createKey("admin", "--scope", "admin"),
      }),
    });
    const printedSections = stdout.split(/^==$/m).map((part) => part.trim());
    const expectedSections = documentSections.map((blocks) =>
      (blocks[language === "sh" ? "json" : "text"] ?? "").trim(),
    );
    const maskValues = (text) => text.replace(/"(at|id|next|secret)":"[^"]*"/g, '"$1":"…"');
    assert.deepEqual(printedSections.map(maskValues), expectedSections);
  });
}

/** The number in the id of an entry. */
const idNumber = (id) => Number(id.split("-")[1]);

for (const language of ["php", "python", "js"]) {
  test(`the endpoint in ${language} takes each message, and only what is signed`, async (t) => {
    const directory = await makeProjectDirectory(t);
    await mkdir(join(directory, "messages"));
    const server = await startServer(t, directory);
    const add = async (url) => {
      const { stdout } = await server.cli("webhook", "add", "shop", url, "--types", "message,user.new");
      return { CHAT_WEBHOOK_SECRET: stdout.trim().split("\n").at(-1) };
    };
    const url = await startListeningProgram(t, directory, language, endpoint[language], add);
    assert.equal((await fetch(url, { method: "POST", body: '{"type":"message"}' })).status, 503);
    const described = async () => JSON.parse((await server.cli("webhook", "list", "--json")).stdout);
    await eventually(async () => (await described()).position, "the webhook to have a position");
    for (const text of ["first", "second"]) await server.asUser("alice", "send", { to: "@bob", text });
    const taken = async () => {
      const names = (await readdir(join(directory, "messages"))).sort((a, b) => idNumber(a) - idNumber(b));
      return Promise.all(names.map((name) => readFile(join(directory, "messages", name), "utf8")));
    };
    await eventually(async () => (await taken()).at(-1) === "second", "the second message");
    await server.cli("webhook", "replay", "shop", "--from", "0");
    await server.asUser("alice", "send", { to: "@bob", text: "third" });
    await eventually(async () => (await taken()).at(-1) === "third", "the third message");
    assert.deepEqual(await taken(), ["first", "second", "third"]);
    await eventually(async () => (await described()).answers.length >= 3, "three answers");
    const { answers } = await described();
    assert.ok(
      answers.every(({ status }) => status === 204),
      JSON.stringify(answers),
    );
  });
}

const HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

for (const language of ["php", "python", "js"]) {
  test(`the hook in ${language} accepts, replaces and refuses`, async (t) => {
    const directory = await makeProjectDirectory(t);
    await writeFile(join(directory, "hook"), HOOK_SECRET);
    const env = { CHAT_HOOK_SECRET: HOOK_SECRET };
    const url = await startListeningProgram(t, directory, language, hook[language], env);
    const server = await startServer(t, directory, {
      SWITCHBOARD_HOOKS_URL: url,
      SWITCHBOARD_HOOKS_SECRET_FILE: join(directory, "hook"),
      SWITCHBOARD_HOOKS_ASK: "message",
      SWITCHBOARD_HOOKS_ON_FAILURE: "message=refuse",
      SWITCHBOARD_HOOKS_TIMEOUT: "10000",
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
