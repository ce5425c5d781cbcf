// Socket.IO as its documentation sets it up for many clients: WebSocket only, no compression, rooms by `join`, an
// acknowledgement for the sender (socket.io/docs/v4/performance-tuning, /rooms, /emitting-events).
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });

io.on("connection", (socket) => {
  const { user, room } = socket.handshake.auth;
  socket.join(room);
  socket.on("message", ({ to, text }, acknowledge) => {
    socket.to(to).emit("message", { to, from: user, at: new Date().toISOString(), text });
    acknowledge();
  });
});
// Frees the request of the handshake, which is no longer needed (socket.io/docs/v4/memory-usage).
io.engine.on("connection", (raw) => (raw.request = null));

http.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${http.address().port}`));
