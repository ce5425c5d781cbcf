// `npm run dev -w examples/svelte`, then http://127.0.0.1:8000/?user=alice

import { connect } from "@switchboard/client";
import { mount } from "svelte";
import Chat from "./Chat.svelte";

const query = new URLSearchParams(location.search);
// In production: { token: () => fetch("/chat-token").then((r) => r.text()) }.
const chat = connect(query.get("server") ?? "http://127.0.0.1:9501", { user: query.get("user") ?? "alice" });

mount(Chat, { target: document.getElementById("root"), props: { chat, id: "#general" } });
