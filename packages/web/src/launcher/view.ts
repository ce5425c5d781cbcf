// The launcher's nodes. They are made by calls and not from HTML, which a page may forbid (Trusted Types).

const SVG = "http://www.w3.org/2000/svg";
const CHAT = "M4 11.5C4 7.4 7.6 4.5 12 4.5s8 2.9 8 7-3.6 7-8 7c-1 0-2-.15-2.9-.43L4.6 19.5l1.1-3.6A6.6 6.6 0 014 11.5z";
const DOTS = "M8.6 11.6h.01M12 11.6h.01M15.4 11.6h.01";
const CROSS = "M6 6l12 12M18 6L6 18";

function make<K extends keyof HTMLElementTagNameMap>(
  name: K,
  attributes: Record<string, string>,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

function icon(className: string, ...shapes: string[]): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  if (className) svg.setAttribute("class", className);
  for (const shape of shapes) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", shape);
    svg.append(path);
  }
  return svg;
}

export function parts(root: ShadowRoot) {
  const badge = make("span", {
    class: "badge",
    part: "badge",
    "data-testid": "badge",
    "aria-hidden": "true",
    hidden: "",
  });
  const bubbleLabel = make("span", { class: "unseen" });
  const bubble = make(
    "button",
    { type: "button", class: "bubble", part: "bubble", "data-testid": "launcher", "aria-haspopup": "dialog" },
    icon("chat-sign", CHAT, DOTS),
    icon("close-sign", CROSS),
    badge,
    bubbleLabel,
  );
  const teaserFrom = make("b", { dir: "auto" });
  const teaserBody = make("span", { dir: "auto" });
  const teaserText = make(
    "button",
    { type: "button", class: "teaser-text", "data-testid": "teaser" },
    teaserFrom,
    teaserBody,
  );
  const dismiss = make("button", { type: "button", class: "sign", "data-testid": "dismiss" }, icon("", CROSS));
  const teaser = make("div", { class: "teaser", part: "teaser", role: "status", hidden: "" }, teaserText, dismiss);
  const waitText = make("p", {}, make("i", {}));
  // Shown until the chat is in the slot.
  const chat = make("slot", { name: "chat" }, make("div", { class: "wait", role: "status" }, waitText));
  const close = make(
    "button",
    { type: "button", class: "sign panel-close", "data-testid": "panel-close" },
    icon("", CROSS),
  );
  const panel = make("dialog", { class: "panel", part: "panel", "data-testid": "panel" }, chat, close);
  root.append(make("div", { class: "launcher" }, panel, teaser, bubble));
  return {
    bubble,
    bubbleLabel,
    badge,
    teaser,
    teaserFrom,
    teaserBody,
    teaserText,
    dismiss,
    panel,
    waitText,
    close,
  };
}

export type Parts = ReturnType<typeof parts>;
