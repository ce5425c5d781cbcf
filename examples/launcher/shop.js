const chat = document.querySelector("switchboard-launcher");

// A development server accepts a name. In production: chat.token = async () => (await fetch("/chat-token")).text();
chat.user = new URLSearchParams(location.search).get("user") ?? "alice";

/** Makes an element with a class and content. */
function makeElement(name, className, ...content) {
  const element = document.createElement(name);
  element.className = className;
  element.append(...content);
  return element;
}

// The shop's back end sends messages with `data: { order: { … } }`. The page decides how they look, with its own styles.
chat.renderData = ({ order }) => {
  if (!order) return;
  const track = makeElement("button", "order-track", "Track it");
  track.dataset.action = "track";
  const total = new Intl.NumberFormat(undefined, { style: "currency", currency: order.currency }).format(order.total);
  return makeElement(
    "section",
    "order",
    makeElement(
      "header",
      "order-head",
      makeElement("b", "", `Order ${order.number}`),
      makeElement("span", "order-state", order.state),
    ),
    makeElement("ul", "", ...order.items.map((item) => Object.assign(makeElement("li", "", item), { dir: "auto" }))),
    makeElement("footer", "order-foot", makeElement("b", "", total), track),
  );
};

// Elements with `data-action` in a card send this event.
chat.addEventListener("action", ({ detail: { action, message } }) => {
  if (action === "track") document.querySelector("#said").textContent = `Tracking order ${message.data.order.number}…`;
});
