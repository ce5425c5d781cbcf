// `npm run dev -w examples/react`, then http://127.0.0.1:8000/?user=alice

import { ChatProvider } from "@switchboard/client/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat.jsx";

const query = new URLSearchParams(location.search);
const server = query.get("server") ?? "http://127.0.0.1:9501";

createRoot(document.getElementById("root")).render(
  <StrictMode>
    {/* In production: token={() => fetch("/chat-token").then((r) => r.text())} in place of the user. */}
    <ChatProvider url={server} user={query.get("user") ?? "alice"}>
      <Chat id="#general" />
    </ChatProvider>
  </StrictMode>,
);
