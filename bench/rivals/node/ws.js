// A server with `ws` as tutorials write it: it keeps the connections of a room in a set and loops over them.
import { WebSocketServer } from "ws";

const rooms = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });

server.on("connection", (socket) => {
  let user, own;
  socket.on("message", (data) => {
    const frame = JSON.parse(data);
    if (frame.type === "hello") {
      user = frame.user;
      own = frame.room;
      if (!rooms.has(own)) rooms.set(own, new Set());
      rooms.get(own).add(socket);
      socket.send('{"type":"welcome"}');
      return;
    }
    const { id, to, text } = frame;
    const message = Buffer.from(
      JSON.stringify({ type: "message", to, from: user, at: new Date().toISOString(), text }),
    );
    for (const other of rooms.get(to) ?? []) {
      if (other !== socket) other.send(message, { binary: false });
    }
    socket.send(JSON.stringify({ type: "ok", id }));
  });
  socket.on("close", () => rooms.get(own)?.delete(socket));
  socket.on("error", () => socket.terminate());
});

server.on("listening", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
