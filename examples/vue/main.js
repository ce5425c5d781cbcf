// `npm run dev -w examples/vue`, then http://127.0.0.1:8000/?user=alice

import { connect } from "@switchboard/client";
import { chatKey } from "@switchboard/client/vue";
import { createApp } from "vue";
import Chat from "./Chat.vue";

const query = new URLSearchParams(location.search);
// In production: { token: () => fetch("/chat-token").then((r) => r.text()) }.
const chat = connect(query.get("server") ?? "http://127.0.0.1:9501", { user: query.get("user") ?? "alice" });

createApp(Chat, { id: "#general" }).provide(chatKey, chat).mount("#root");
