import { useChat, useMarkRead, useMessages, useValue } from "@switchboard/client/react";
import { useState } from "react";

export function Chat({ id }) {
  const { state } = useValue(useChat().status);
  const { conversation, messages, send } = useMessages(id);
  const typing = useValue(conversation.typing);
  // Mark as read what the user sees: the end of the list is in view, and the page is visible.
  const end = useMarkRead(conversation);
  const [text, setText] = useState("");

  function submit(event) {
    event.preventDefault();
    if (text) send(text);
    setText("");
  }

  return (
    <>
      <p role="status">{state}</p>
      <ol>
        {messages.map((message) => (
          <Message key={message.id} message={message} onRetry={() => conversation.outgoing(message.key)?.retry()} />
        ))}
      </ol>
      <div ref={end} />
      <p>{typing.length > 0 && `${typing.join(", ")} typing…`}</p>
      <form onSubmit={submit}>
        <input
          aria-label="Message"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            conversation.typing.set(true);
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
