// `npm run dev -w examples/svelte`, then http://127.0.0.1:8000/?user=alice

import { mount } from "svelte";
import Chat from "./Chat.svelte";

const query = new URLSearchParams(location.search);
const url = query.get("server") ?? "http://127.0.0.1:9501";
// In production: { token: () => fetch("/chat-token").then((r) => r.text()) }.
const options = { user: query.get("user") ?? "alice" };

mount(Chat, { target: document.getElementById("root"), props: { url, options, id: "#general" } });
