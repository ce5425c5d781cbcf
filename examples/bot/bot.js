// A bot that answers `!time` in each of its rooms and direct conversations.
//
//   SWITCHBOARD_URL=http://127.0.0.1:9501 npm start -w examples/bot
//
// On a development server it signs in as "bot". Elsewhere it makes its own tokens, with the server's secret, in a function: a
// fixed token from `switchboard token` would expire.
//
//   SECRET_FILE=/etc/switchboard/secret npm start -w examples/bot

import { readFile, rename, writeFile } from "node:fs/promises";
import { connect } from "@switchboard/client";
import { mintToken } from "@switchboard/client/server";

const { SWITCHBOARD_URL = "http://127.0.0.1:9501", SECRET_FILE, CURSORS_FILE = "bot-cursors.json" } = process.env;

/** The cursors in the file, by scope. A missing file means no cursors; any other failure is an error. */
async function readStoredCursors() {
  const text = await readFile(CURSORS_FILE, "utf8").catch((error) => {
    if (error.code === "ENOENT") return "{}";
    throw error;
  });
  return JSON.parse(text);
}

/** Stores the bot's cursor of each conversation, so that it receives messages sent while it was down. */
const cursors = {
  async load(scope) {
    return (await readStoredCursors())[scope] ?? {};
  },
  async save(scope, changed) {
    const allCursors = await readStoredCursors();
    allCursors[scope] = { ...allCursors[scope], ...changed };
    // The write is atomic: a new file is written and then renamed.
    await writeFile(`${CURSORS_FILE}.new`, JSON.stringify(allCursors));
    await rename(`${CURSORS_FILE}.new`, CURSORS_FILE);
  },
};

const token = async () => mintToken(await readFile(SECRET_FILE, "utf8"), { user: "bot" });
const chat = connect(SWITCHBOARD_URL, { cursors, ...(SECRET_FILE ? { token } : { user: "bot" }) });

chat.status.subscribe(({ state, reason }) => console.log(reason ? `${state}: ${reason}` : state));
chat.on("error", (error) => console.error(String(error)));

// Called for every message, also those sent while the connection or the bot was down. The cursor moves when the handler is
// done, so after a crash an unanswered message comes again.
chat.on("message", async ({ message, conversation }) => {
  if (message.from === chat.user.getSnapshot() || message.text !== "!time") return;
  await conversation.send({ text: new Date().toISOString(), replyTo: message.seq });
});

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => chat.close());
