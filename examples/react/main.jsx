// `npm run dev -w examples/react`, then http://127.0.0.1:8000/?user=alice

import { connect } from "@switchboard/client";
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat.jsx";

const query = new URLSearchParams(location.search);
// One chat for the whole app, outside of what renders. In production: { token: () => fetch("/chat-token").then((r) => r.text()) }.
const chat = connect(query.get("server") ?? "http://127.0.0.1:9501", { user: query.get("user") ?? "alice" });

createRoot(document.getElementById("root")).render(<Chat chat={chat} id="#general" />);
