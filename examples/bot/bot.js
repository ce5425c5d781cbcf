// A bot that answers `!time`, in every room that it is in and to everybody who writes to it.
//
//   SWITCHBOARD_URL=http://127.0.0.1:9501 npm start -w examples/bot
//
// On a development server it is simply called "bot". Elsewhere it makes its own tokens, with the server's secret. (A token that
// is made once, by `switchboard token`, ends, and a bot with it; a function gives another in time.)
//
//   SECRET_FILE=/etc/switchboard/secret npm start -w examples/bot

import { readFile, rename, writeFile } from "node:fs/promises";
import { connect } from "@switchboard/client";
import { mintToken } from "@switchboard/client/server";

const { SWITCHBOARD_URL = "http://127.0.0.1:9501", SECRET_FILE, CURSORS_FILE = "bot-cursors.json" } = process.env;

/** How far the bot has heard each conversation: what comes while it does not run, it hears when it does again. */
const cursors = {
  async load(scope) {
    const all = await readFile(CURSORS_FILE, "utf8").then(JSON.parse, () => ({}));
    return all[scope] ?? {};
  },
  async save(scope, changed) {
    const all = { [scope]: { ...(await this.load(scope)), ...changed } };
    // Whole or not at all.
    await writeFile(`${CURSORS_FILE}.new`, JSON.stringify(all));
    await rename(`${CURSORS_FILE}.new`, CURSORS_FILE);
  },
};

const token = async () => mintToken(await readFile(SECRET_FILE, "utf8"), { user: "bot" });
const chat = connect(SWITCHBOARD_URL, { cursors, ...(SECRET_FILE ? { token } : { user: "bot" }) });

chat.status.subscribe(({ state, reason }) => console.log(reason ? `${state}: ${reason}` : state));
chat.on("error", (error) => console.error(String(error)));

// Every message, also those that came while the connection was away, or the bot. It counts as heard when it is answered: what
// was not, in a crash, comes again.
chat.on("message", async ({ message, conversation }) => {
  if (message.from === chat.user.getSnapshot() || message.text !== "!time") return;
  await conversation.send({ text: new Date().toISOString(), replyTo: message.seq });
});

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => chat.close());
