// A bot that answers `!time`, in every room that it is in and to everybody who writes to it.
//
//   SWITCHBOARD_URL=http://127.0.0.1:9501 npm start -w examples/bot
//
// On a development server it is simply called "bot"; elsewhere it needs a token:
//
//   BOT_TOKEN=$(switchboard token bot --ttl 24h) npm start -w examples/bot

import { connect } from "@switchboard/client";

const { SWITCHBOARD_URL = "http://127.0.0.1:9501", BOT_TOKEN: token } = process.env;
const chat = connect(SWITCHBOARD_URL, token ? { token } : { user: "bot" });

chat.status.subscribe(({ state, reason }) => console.log(reason ? `${state}: ${reason}` : state));
chat.on("error", (error) => console.error(error.message));

// Every message once, also those that came while the connection was away.
chat.on("message", ({ message, conversation }) => {
  if (message.from === chat.user.getSnapshot() || message.text !== "!time") return;
  conversation.send({ text: new Date().toISOString(), replyTo: message.seq });
});

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => chat.close());
