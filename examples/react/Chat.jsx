import { useValue } from "@switchboard/client/react";
import { useEffect, useState } from "react";

export function Chat({ chat, id }) {
  const room = chat.conversation(id);
  const { state } = useValue(chat.status);
  const messages = useValue(room.messages);
  const typing = useValue(room.typing);
  const [text, setText] = useState("");

  useEffect(() => room.markRead(), [room, messages]);

  function send(event) {
    event.preventDefault();
    if (text) room.send(text);
    setText("");
  }

  return (
    <>
      <p role="status">{state}</p>
      <ol>
        {messages.map((message) => (
          <Message key={message.id} message={message} onRetry={() => room.outgoing(message.key)?.retry()} />
        ))}
      </ol>
      <p>{typing.length > 0 && `${typing.join(", ")} typing…`}</p>
      <form onSubmit={send}>
        <input
          aria-label="Message"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            room.typing.set(true);
          }}
        />
        <button>Send</button>
      </form>
    </>
  );
}

function Message({ message, onRetry }) {
  return (
    <li>
      {message.from}: {message.deleted ? "(deleted)" : message.text}
      {message.state === "pending" && " …"}
      {message.state === "failed" && <button onClick={onRetry}>Try again</button>}
    </li>
  );
}
