// The parser's output: a tree that components turn into elements. There is no HTML in between, so no text of a user can
// become markup.

export type Inline =
  | { type: "text"; text: string }
  | { type: "code"; text: string }
  | { type: "break" }
  | { type: "mention"; user: string }
  | { type: "link"; href: string; children: Inline[] }
  | { type: "strong" | "em" | "del"; children: Inline[] };

export type Block =
  | { type: "paragraph"; children: Inline[] }
  | { type: "code"; language: string; text: string }
  | { type: "quote"; children: Block[] }
  | { type: "list"; start: number | undefined; items: Inline[][] };
