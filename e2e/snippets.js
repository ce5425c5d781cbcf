// Runs the programs that documents show.

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Server } from "../packages/client/test/support.js";
import { eventually, freePort } from "./support.js";

export const root = fileURLToPath(new URL("..", import.meta.url));
export const SECRET = "a secret of the tests that is long enough";

/** Each language: how a program begins, how it prints a line between two sections, and what executes it. */
export const languages = {
  php: { begin: "<?php\n", mark: 'echo "==\\n";', file: "main.php", command: "php" },
  python: { begin: "", mark: 'print("==")', file: "main.py", command: "python3" },
  js: { begin: "", mark: 'console.log("==");', file: "main.mjs", command: process.execPath },
  sh: { begin: "set -eu\n", mark: "echo; echo ==", file: "main.sh", command: "sh" },
};

/** The text of the last block of each language in a section of a page. */
export const blocksOf = (section) =>
  Object.fromEntries(Array.from(section.matchAll(/^```(\w+)\n(.*?)^```$/gms), (m) => m.slice(1)));

/** A directory in which the packages are installed. */
export async function makeProjectDirectory(t) {
  const directory = await mkdtemp(join(tmpdir(), "switchboard-back-end-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await mkdir(join(directory, "vendor"));
  const autoload = join(root, "packages/php/autoload.php");
  await writeFile(join(directory, "vendor/autoload.php"), `<?php require ${JSON.stringify(autoload)};`);
  await symlink(join(root, "node_modules"), join(directory, "node_modules"));
  await writeFile(join(directory, "secret"), `${SECRET}\n`);
  return directory;
}

/** The environment of a program in such a directory. */
export function programEnvironment(directory, more) {
  const binary = process.env.SWITCHBOARD_BINARY ?? join(root, "target/debug/switchboard");
  return {
    PATH: [dirname(binary), process.env.PATH].join(delimiter),
    PYTHONPATH: join(root, "packages/python/src"),
    PYTHONDONTWRITEBYTECODE: "1",
    CHAT_SECRET_FILE: join(directory, "secret"),
    ...more,
  };
}

/** Starts a server for back ends. It may send webhooks to private addresses. */
export async function startServer(t, directory, env = {}) {
  await writeFile(join(directory, "webhooks"), SECRET);
  return Server.start(t, {
    args: ["serve"],
    env: {
      SWITCHBOARD_AUTH_SECRET: SECRET,
      SWITCHBOARD_WEBHOOKS_SECRET_FILE: join(directory, "webhooks"),
      SWITCHBOARD_WEBHOOKS_PRIVATE: "true",
      ...env,
    },
  });
}

/** Starts a program that listens at a free port, and returns its URL. `env` is that of the program, or makes it of the URL. */
export async function startListeningProgram(t, directory, language, program, env) {
  const { begin, file, command } = languages[language];
  await writeFile(join(directory, file), begin + program);
  const port = String(await freePort());
  const url = `http://127.0.0.1:${port}/`;
  const child = spawn(command, language === "php" ? ["-S", `127.0.0.1:${port}`, file] : [file], {
    cwd: directory,
    stdio: "ignore",
    env: programEnvironment(directory, { PORT: port, ...(typeof env === "function" ? await env(url) : env) }),
  });
  t.after(() => child.kill());
  const answers = () =>
    fetch(url, { method: "POST", body: "{}" }).then(
      () => true,
      () => false,
    );
  await eventually(answers, "the program to listen");
  return url;
}
