// The package as it is published: packed, installed into a fresh project, imported and type-checked there.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const runFile = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));
const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
const entryPoints = Object.keys(exports)
  .filter((name) => exports[name].types)
  .map((name) => join("@switchboard/client", name));

let project;

before(async () => {
  project = await mkdtemp(join(tmpdir(), "switchboard-pack-"));
  const { stdout } = await runFile("npm", ["pack", "--json", "--pack-destination", project], { cwd: root });
  const [{ filename }] = JSON.parse(stdout);
  await writeFile(join(project, "package.json"), '{"private":true,"type":"module"}');
  await runFile("npm", ["install", "--offline", "--no-audit", "--no-fund", `./${filename}`], { cwd: project });
  // Links the frameworks, which a real app has installed.
  const { resolve } = createRequire(import.meta.url);
  await mkdir(join(project, "node_modules/@types"), { recursive: true });
  for (const name of ["react", "vue", "svelte", "@types/react"])
    await symlink(dirname(resolve(`${name}/package.json`)), join(project, "node_modules", name));
});

after(() => rm(project, { recursive: true, force: true }));

test("every entry point can be imported, and has what it says", async () => {
  const program = entryPoints.map((name) => `console.log(JSON.stringify(Object.keys(await import("${name}"))))`);
  await writeFile(join(project, "all.js"), program.join(";\n"));
  const { stdout, stderr } = await runFile(process.execPath, ["all.js"], { cwd: project });
  const exportedNamesPerModule = stdout.trim().split("\n").map(JSON.parse);
  const exportedNames = Object.fromEntries(entryPoints.map((name, n) => [name, exportedNamesPerModule[n].sort()]));
  assert.equal(stderr, "");
  assert.ok(exportedNames["@switchboard/client"].includes("connect"), exportedNames["@switchboard/client"].join());
  assert.deepEqual(exportedNames["@switchboard/client/react"], [
    "ChatProvider",
    "useChat",
    "useConversation",
    "useMarkRead",
    "useMessages",
    "useValue",
  ]);
  assert.deepEqual(exportedNames["@switchboard/client/vue"], [
    "chatKey",
    "provideChat",
    "useChat",
    "useConversation",
    "useMarkRead",
    "useMessages",
    "useValue",
  ]);
  assert.deepEqual(exportedNames["@switchboard/client/svelte"], [
    "markRead",
    "provideChat",
    "useChat",
    "useMessages",
    "value",
  ]);
  assert.deepEqual(exportedNames["@switchboard/client/react-native"], [
    "asyncStorageCursors",
    "asyncStorageOutbox",
    "nativeNetwork",
  ]);
  assert.deepEqual(exportedNames["@switchboard/client/server"], ["command", "feed", "mintToken", "send"]);
  assert.deepEqual(exportedNames["@switchboard/client/testing"], ["fakeServer"]);
});

const TYPESCRIPT_PROGRAM = `
import { type Chat, ChatError, type ChatMessage, connect, type Draft } from "@switchboard/client";
import { ChatProvider, useMessages, useValue } from "@switchboard/client/react";
import { useMessages as useVueMessages, useValue as useVueValue } from "@switchboard/client/vue";
import { value } from "@switchboard/client/svelte";
import { asyncStorageOutbox, nativeNetwork } from "@switchboard/client/react-native";
import { command, mintToken, send } from "@switchboard/client/server";
import { fakeServer } from "@switchboard/client/testing";

interface Order { number: number }
declare module "@switchboard/client" {
  interface MessageData { ordered?: Order }
}

export const chat: Chat = connect("wss://chat.example", { token: async ({ signal }) => (signal.aborted ? "" : "x"), start: false });
const message: Draft = { text: "hi", data: { ordered: { number: 17 } } };
// @ts-expect-error: an order's number is no text.
const wrong: Draft = { data: { ordered: { number: "17" } } };
export const room = chat.conversation("#general");
room.send(wrong);
export const seq: Promise<number> = room.send(message).acked.then(({ seq }) => seq);
export function order({ data }: ChatMessage): number | undefined {
  return data?.ordered?.number;
}
export function component(): number {
  const { messages, hasOlder, send } = useMessages("#general");
  send("x");
  // @ts-expect-error: messages is a list, which has no foo.
  messages.foo;
  return hasOlder ? messages.length : useValue(room.messages).length;
}
export const provider = [
  ChatProvider({ chat }),
  ChatProvider({ url: "wss://chat.example", user: "alice" }),
  // @ts-expect-error: the provider takes either url or chat, not both.
  ChatProvider({ url: "wss://chat.example", chat }),
];
export const vue = () => [useVueMessages(() => "#general").messages.value[0]?.text, useVueValue(room.info).value?.unread];
export const svelte = value(() => room.messages).current.length;
export const native = {
  outbox: asyncStorageOutbox({ getItem: async () => null, setItem: async () => {}, removeItem: async () => {}, getAllKeys: async () => [] }),
  network: nativeNetwork({ AppState: { currentState: "active", addEventListener: () => ({ remove() {} }) } }),
};
export async function backEnd() {
  const access = { url: "https://chat.example", key: await mintToken("x".repeat(32), { user: "alice" }) };
  const stored: number | undefined = (await send({ ...access, to: "@bob", text: "hi", messageKey: "k" })).seq;
  const page = await command(access, "history", { conversation: "@bob", limit: 10 });
  // @ts-expect-error: the field of history is called conversation, not room.
  await command(access, "history", { room: "@bob" });
  return [stored, page.messages[0]?.text, new ChatError({ code: "offline", message: "", retryable: true }).code];
}
export const fake = fakeServer({ limits: { replay: 10 } }).connect("alice").status.getSnapshot().state;
`;

/** The compiler's output for files of the project. */
async function compileProgram(files, module, moduleResolution) {
  for (const [name, text] of Object.entries(files)) await writeFile(join(project, name), text);
  const options = {
    module,
    moduleResolution,
    target: "es2022",
    lib: ["es2023", "dom", "dom.iterable"],
    jsx: "react-jsx",
  };
  const strictOptions = { strict: true, exactOptionalPropertyTypes: true, noEmit: true, types: [] };
  const config = { compilerOptions: { ...options, ...strictOptions }, files: Object.keys(files) };
  await writeFile(join(project, "tsconfig.json"), JSON.stringify(config));
  const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
  const { stdout } = await runFile(process.execPath, [tsc, "-p", project]).catch((error) => error);
  return stdout;
}

/** The examples in docs/sdk.md, each a module. */
async function documentedExamples() {
  const page = await readFile(join(root, "../../docs/sdk.md"), "utf8");
  const blocks = [...page.matchAll(/^```(tsx?)\n(.*?)^```$/gms)];
  assert.ok(blocks.length > 5);
  return blocks.map(([, type, text], n) => [`example-${n}.${type}`, `${text}\nexport {};\n`]);
}

test("types, with the module resolution of bundlers, and what docs/sdk.md shows", async () => {
  const files = { "use.ts": TYPESCRIPT_PROGRAM, ...Object.fromEntries(await documentedExamples()) };
  assert.equal(await compileProgram(files, "esnext", "bundler"), "");
});

test("types, with the module resolution of Node", async () => {
  assert.equal(await compileProgram({ "use.ts": TYPESCRIPT_PROGRAM }, "node16", "node16"), "");
});
