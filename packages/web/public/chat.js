// The page on the public protocol alone, without dependencies. State lives in `conversations`;
// whatever changes it calls `draw()`, and the document follows. All text goes in as text.

const ID = /^[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$/;
const LINES = ["create", "join", "leave", "invite", "remove", "role", "rename", "unreadable"];
const $ = (id) => document.getElementById(id);
const bytes = (text) => new TextEncoder().encode(text).length;
const later = (ms) => new Promise((done) => setTimeout(done, ms));

// ---- Who one is: from the fragment, which browsers do not send to servers.

function identity() {
  const fields = new Map();
  for (const pair of location.hash.slice(1).split("&")) {
    const [name, ...value] = pair.split("=");
    // Not URLSearchParams: it would read the `+` of an id as a space.
    try { fields.set(name, decodeURIComponent(value.join("="))); } catch { /* not an identity */ }
  }
  if (fields.get("token")) {
    sessionStorage.setItem("token", fields.get("token"));
    history.replaceState(null, "", location.pathname + location.search);
  } else if (fields.get("user")) {
    sessionStorage.removeItem("token");
    return { user: fields.get("user") };
  }
  const token = sessionStorage.getItem("token");
  return token ? { token } : null;
}

const who = identity();
let me = who?.user ?? "";
let open = null;

// ---- The connection: one socket, replaced when lost.

const link = {
  socket: null, ready: false, stopped: false, attempt: 0, timer: 0,
  heardAt: 0, pingedAt: 0, welcomedAt: 0, error: null, bye: null,
  nextId: 1, waiting: new Map(), watched: "", listing: false, stale: false,
  limits: { hello_frame: 8192, frame: 65536, text: 16384, watch: 200, page: 200 },
};

function say(state, text) {
  $("status").dataset.state = state;
  if ($("status").textContent !== text) $("status").textContent = text;
}

function connect() {
  clearTimeout(link.timer);
  if (link.socket || !who) return;
  $("again").hidden = true;
  say("connecting", "connecting…");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/v1/ws`, "switchboard.v1");
  Object.assign(link, { socket, stopped: false, heardAt: performance.now(), pingedAt: 0, error: null, bye: null });
  socket.onopen = () => socket.send(JSON.stringify(hello()));
  socket.onmessage = ({ data }) => {
    if (socket !== link.socket) return;
    link.heardAt = performance.now();
    hear(JSON.parse(data));
  };
  socket.onclose = ({ code, reason }) => socket === link.socket && lost(code, reason);
}

/** `hello` with the cursors of what is loaded, as many as fit. The rest starts anew from its summary. */
function hello() {
  const frame = { type: "hello", ...who, cursors: {} };
  let room = link.limits.hello_frame - bytes(JSON.stringify(frame));
  for (const c of sorted()) {
    if (c.gone) continue;
    if (c.loaded) room -= c.id.length + 24;
    if (c.loaded && room > 0) frame.cursors[c.id] = c.cursor;
    else forget(c);
  }
  return frame;
}

function lost(code, reason) {
  const { error, bye, socket } = link;
  socket.onmessage = socket.onclose = null;
  socket.close();
  if (link.ready && performance.now() - link.welcomedAt > 10_000) link.attempt = 0;
  Object.assign(link, { socket: null, ready: false, watched: "", listing: false });
  for (const call of link.waiting.values()) call.reject({ code: "offline", retryable: true });
  link.waiting.clear();
  presence.clear();
  for (const c of conversations.values()) for (const user of c.typers.keys()) rested(c, user);
  link.stopped = code === 1008 || (code >= 4500 && code <= 4999);
  if (link.stopped) {
    say("offline", `offline: ${error?.message || reason || `closed with code ${code}`}`);
    $("again").hidden = false;
  } else {
    const why = bye !== null || code === 1012 ? "the server restarts"
      : code === 1013 ? "the server is full"
      : navigator.onLine === false ? "no network"
      : reason || "the connection was lost";
    say("offline", `offline: ${why}; trying again`);
    const given = bye ?? error?.retry_after;
    const wait = given != null ? given * (1 + Math.random() / 4)
      : Math.random() * Math.min(20_000, 500 * 2 ** link.attempt++);
    link.timer = setTimeout(connect, wait);
  }
  draw();
}

// A browser does not tell when the other side is gone without a word.
setInterval(() => {
  if (!link.socket) return;
  const now = performance.now();
  if (!link.ready) {
    if (now - link.heardAt > 15_000) lost(1006, "no answer");
  } else if (link.pingedAt > link.heardAt) {
    if (now - link.pingedAt > 10_000) lost(1006, "no answer");
  } else if (now - link.heardAt > 25_000) {
    link.pingedAt = now;
    request({ type: "ping" }).catch(() => {});
  }
}, 5_000);

/** Says a command; resolves with its `ok`, rejects with its `error`. */
function request(frame) {
  return new Promise((resolve, reject) => {
    if (!link.ready) return reject({ code: "offline", retryable: true });
    const id = link.nextId++;
    const socket = link.socket;
    link.waiting.set(id, { resolve, reject });
    setTimeout(() => link.waiting.delete(id) && reject({ code: "silent", message: "no answer", retryable: true }), 20_000);
    socket.send(JSON.stringify({ ...frame, id }));
  });
}

function hear(frame) {
  const call = link.waiting.get(frame.id);
  const c = conversations.get(frame.conversation);
  switch (frame.type) {
    case "welcome": return void welcome(frame).catch(() => {});
    case "ok": case "pong":
      link.waiting.delete(frame.id);
      return call?.resolve(frame);
    case "error":
      link.waiting.delete(frame.id);
      if (call) return call.reject(frame);
      link.error = frame;
      // A cursor of `hello` was refused: what is here is not what is there.
      if (c) { forget(c); relist(); }
      return;
    case "gap":
      if (c) { c.wanted = Math.max(c.wanted, frame.head); catchUp(c); }
      return;
    case "bye": link.bye = frame.retry_after; return;
    case "presence": presence.set(frame.user, frame); return draw();
    case "typing": return c && frame.user !== me && typed(c, frame.user);
    case "read": return c && wasRead(c, frame);
    default: if (Number.isInteger(frame.seq) && frame.conversation) arrive(frame);
  }
}

async function welcome(frame) {
  Object.assign(link, { ready: true, welcomedAt: performance.now(), limits: { ...link.limits, ...frame.limits } });
  me = frame.user;
  say("connected", "connected");
  for (const c of conversations.values()) pump(c);
  await listFrom(frame);
  const last = conversations.get(sessionStorage.getItem(`open ${me}`));
  if (!open && last) show(last);
  else if (open) refresh(open);
}

// ---- Conversations: each a log, of which the page has everything up to `cursor`.

const conversations = new Map();
const presence = new Map();
let rank = 0;

const isRoom = (c) => c.id.startsWith("#");
const peer = (c) => { const [a, b] = c.id.slice(1).split(":"); return a === me ? b : a; };
const name = (c) => isRoom(c) ? c.title || c.id : peer(c) === me ? "Notes to self" : peer(c);
const sorted = () => [...conversations.values()].sort((a, b) => b.rank - a.rank);
const direct = (other) => `@${[me, other].sort().join(":")}`;

function conversation(id) {
  let c = conversations.get(id);
  if (!c) {
    c = {
      id, title: "", role: "member", known: false, gone: false, rank: ++rank, last: null,
      cursor: null, wanted: 0, events: new Map(), held: new Map(), messages: new Map(),
      loaded: false, loading: false, more: false, syncing: false, filling: 0,
      read: 0, unread: 0, counted: 0, reading: false, people: new Map(), peopleTimer: 0,
      typers: new Map(), typedAt: -Infinity, outbox: [], sending: false, draft: "",
    };
    conversations.set(id, c);
  }
  return c;
}

function forget(c) {
  Object.assign(c, { cursor: null, wanted: 0, loaded: false, more: false });
  for (const map of [c.events, c.held, c.messages]) map.clear();
}

/** Takes all pages of summaries, the first of which is `page`; then what was not in them is gone. */
async function listFrom(page) {
  const top = (rank += 1_000_000);
  const seen = new Set();
  for (;;) {
    for (const summary of page.conversations) {
      seen.add(summary.conversation);
      takeSummary(summary, top - seen.size);
    }
    draw();
    const last = page.conversations.at(-1);
    if (!page.more || !last) break;
    page = await request({ type: "conversations", before: last.conversation, limit: link.limits.page });
  }
  for (const c of conversations.values()) if (c.known && !seen.has(c.id) && c.rank < top) c.gone = true;
  draw();
}

/** The summaries of the latest active conversations: something happened where we did not know to be. */
async function relist() {
  link.stale = true;
  if (link.listing || !link.ready) return;
  link.listing = true;
  link.stale = false;
  try {
    for (const summary of (await request({ type: "conversations" })).conversations) takeSummary(summary);
  } catch (error) {
    if (error.retryable && link.ready) later(error.retry_after ?? 2_000).then(relist);
  }
  link.listing = false;
  if (link.stale) relist();
}

function takeSummary(summary, order) {
  const c = conversation(summary.conversation);
  const back = c.gone;
  Object.assign(c, { known: true, gone: false, title: summary.title ?? "", role: summary.role });
  if (order !== undefined) c.rank = order;
  if (summary.last && !(c.last?.seq > summary.last.seq)) c.last = standing(summary.last);
  c.read = Math.max(c.read, summary.read);
  c.unread = summary.unread + unreadAfter(c, summary.head);
  c.counted = summary.head;
  // What happened while one was out was not told.
  if (back) c.wanted = Math.max(c.wanted, summary.head);
  c.cursor ??= summary.head;
  drain(c);
  if (c === open && !c.loaded) refresh(c);
}

const unreadAfter = (c, seq) => [...c.messages.values()].filter((m) => m.seq > seq && m.from !== me).length;

/** An event from anywhere: each is applied once, in the order of the log. */
function arrive(event) {
  const c = conversation(event.conversation);
  if (c.cursor !== null && event.seq <= c.cursor) return;
  c.held.set(event.seq, event);
  c.wanted = Math.max(c.wanted, event.seq);
  if (c.cursor === null) relist();
  else drain(c);
}

function drain(c) {
  for (let event; (event = c.held.get(c.cursor + 1));) {
    c.held.delete(++c.cursor);
    apply(c, event);
  }
  for (const seq of c.held.keys()) if (seq <= c.cursor) c.held.delete(seq);
  // An `ok` may overtake events, so a hole gets a moment to close by itself.
  if (c.cursor < c.wanted) catchUpIn(300, c);
  draw();
}

function catchUpIn(ms, c) {
  c.filling ||= setTimeout(() => { c.filling = 0; catchUp(c); }, ms);
}

async function catchUp(c) {
  if (c.syncing) return;
  c.syncing = true;
  try {
    while (c.cursor !== null && c.cursor < c.wanted) {
      const page = await request({ type: "sync", conversation: c.id, after: c.cursor, limit: link.limits.page });
      page.events.forEach(arrive);
      if (!page.more || !page.events.length) break;
    }
  } catch { /* again below, or after the reconnect */ }
  c.syncing = false;
  if (link.ready && c.cursor !== null && c.cursor < c.wanted) catchUpIn(2_000, c);
}

function apply(c, event) {
  c.events.set(event.seq, event);
  c.rank = Math.max(c.rank, ++rank);
  if (event.type === "message") {
    if (!c.messages.has(event.seq)) c.messages.set(event.seq, standing(event));
    if (!(c.last?.seq >= event.seq)) c.last = c.messages.get(event.seq);
    if (event.from === me) settle(c, event.key);
    else if (event.seq > c.counted) c.unread++;
    rested(c, event.from);
    return;
  }
  fold(c, event);
  if (!LINES.includes(event.type)) return;
  const whom = event.user ?? event.from;
  if (event.title !== undefined) c.title = event.title;
  if (event.type === "role" && whom === me) c.role = event.role;
  if (whom === me) c.gone = event.type === "leave" || event.type === "remove" || (c.gone && event.type !== "join" && event.type !== "invite");
  if (c === open) loadPeopleSoon(c);
}

/** A message as it stands now, its reactions in a map: an emoji may be called `__proto__`. */
const standing = (m) => ({ ...m, reactions: new Map(Object.entries(m.reactions ?? {})) });

/** Edits, deletions and reactions; harmless when history had them in already. */
function fold(c, event) {
  for (const m of new Set([c.messages.get(event.target), c.last])) {
    if (m?.seq !== event.target) continue;
    if (event.type === "delete") {
      Object.assign(m, { deleted: true, text: undefined, data: undefined, reactions: new Map() });
    } else if (event.type === "edit" && !m.deleted && !event.deleted && event.seq > (m.edited?.seq ?? 0)) {
      Object.assign(m, { text: event.text, data: event.data, edited: { seq: event.seq, at: event.at } });
    } else if (event.type === "react") {
      const users = (m.reactions.get(event.emoji) ?? []).filter((user) => user !== event.from);
      if (event.on) users.push(event.from);
      if (users.length) m.reactions.set(event.emoji, users);
      else m.reactions.delete(event.emoji);
    }
  }
}

async function loadHistory(c, older) {
  if (c.loading || c.cursor === null) return;
  c.loading = true;
  let again = 0;
  try {
    const before = older ? { before: Math.min(...c.messages.keys()) } : {};
    const page = await request({ type: "history", conversation: c.id, limit: 50, ...before });
    for (const m of page.messages) {
      c.messages.set(m.seq, standing(m));
      if (m.from === me) settle(c, m.key);
    }
    // The page may be older than what came live meanwhile.
    for (const event of c.events.values()) fold(c, event);
    Object.assign(c, { loaded: true, more: page.more });
  } catch (error) {
    if (error.retryable && link.ready) again = error.retry_after ?? 2_000;
  }
  c.loading = false;
  draw();
  if (again) later(again).then(() => c === open && loadHistory(c, older));
}

async function loadPeople(c) {
  try {
    const page = await request({ type: "members", conversation: c.id, limit: link.limits.page });
    for (const { user, read } of page.members) c.people.set(user, Math.max(read, c.people.get(user) ?? 0));
    const now = new Set(page.members.map((member) => member.user));
    if (!page.more) for (const user of c.people.keys()) if (!now.has(user)) c.people.delete(user);
    draw();
  } catch { /* names and receipts can wait for the next time */ }
}

function loadPeopleSoon(c) {
  c.peopleTimer ||= setTimeout(() => { c.peopleTimer = 0; loadPeople(c); }, 500);
}

function refresh(c) {
  if (!c.loaded) loadHistory(c, false);
  if (c.known) loadPeople(c);
}

// ---- Writing: a message stays in the outbox until it is known to be stored, always under one key.

function newKey() {
  // Only in a secure context is there a randomUUID.
  if (crypto.randomUUID) return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function settle(c, key) {
  const at = key === undefined ? -1 : c.outbox.findIndex((item) => item.key === key);
  if (at >= 0) c.outbox.splice(at, 1);
}

/** Sends the outbox, one after the other: so the order survives a retry. */
async function pump(c) {
  const item = c.outbox.find((one) => !one.failed);
  if (c.sending || !item || !link.ready) return;
  c.sending = true;
  let wait = 0;
  try {
    const { text, key } = item;
    const ok = await request({ type: "send", to: c.id, key, text });
    const event = { type: "message", conversation: c.id, seq: ok.seq, from: me, at: ok.at, key, text };
    // Shown in its place at once, even while events before it are on their way.
    if (!c.messages.has(ok.seq)) c.messages.set(ok.seq, standing(event));
    settle(c, key);
    arrive(event);
  } catch (error) {
    if (error.retryable) wait = error.retry_after ?? 1_000;
    else item.failed = error.message;
  }
  c.sending = false;
  draw();
  setTimeout(pump, wait, c);
}

function write(c, text) {
  const item = { key: newKey(), text: text.toWellFormed?.() ?? text, at: new Date().toISOString(), failed: "" };
  const { text: most, frame } = link.limits;
  // A longer frame would cost the connection, again with every retry.
  const long = bytes(item.text) > most || bytes(JSON.stringify(item.text)) + 512 > frame;
  if (long) return `Too long: ${bytes(item.text)} bytes; at most ${most}.`;
  c.outbox.push(item);
  Object.assign(c, { rank: ++rank, typedAt: -Infinity });
  pump(c);
  return "";
}

// ---- What does not last: typing, presence, receipts.

function typed(c, user) {
  rested(c, user);
  c.typers.set(user, setTimeout(() => { rested(c, user); draw(); }, 5_000));
  draw();
}

function rested(c, user) {
  clearTimeout(c.typers.get(user));
  c.typers.delete(user);
}

function wasRead(c, { user, upto }) {
  c.people.set(user, Math.max(upto, c.people.get(user) ?? 0));
  if (user === me && upto > c.read) {
    c.read = upto;
    c.unread = upto >= c.cursor ? 0 : Math.min(c.unread, unreadAfter(c, upto));
  }
  draw();
}

const visible = (c) => c === open && document.visibilityState === "visible";

async function markRead(c) {
  if (!visible(c) || !c.loaded || c.gone) return;
  c.unread = 0;
  if (c.reading || c.cursor <= c.read || !link.ready) return;
  c.reading = true;
  const upto = c.cursor;
  try {
    await request({ type: "read", conversation: c.id, upto });
    c.read = Math.max(c.read, upto);
    await later(250);
  } catch { await later(2_000); }
  c.reading = false;
  draw();
}

/** Whose presence is on the screen: the open room's members, then the direct conversations' others. */
function watch() {
  if (!link.ready) return;
  const all = new Set(open?.known ? open.people.keys() : []);
  for (const c of sorted()) if (c.known && !isRoom(c)) all.add(peer(c));
  all.delete(me);
  const users = [...all].slice(0, link.limits.watch).sort();
  if (JSON.stringify(users) === link.watched) return;
  link.watched = JSON.stringify(users);
  for (const user of presence.keys()) if (!users.includes(user)) presence.delete(user);
  request({ type: "watch", users }).catch(async (error) => {
    await later(error.retry_after ?? 5_000);
    link.watched = "";
  });
}

// ---- The document.

function el(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Puts `nodes` into `parent` in this order, touching only what is out of place. */
function arrange(parent, nodes) {
  nodes.forEach((node, i) => {
    if (parent.children[i] !== node) parent.insertBefore(node, parent.children[i] ?? null);
  });
  while (parent.children.length > nodes.length) parent.lastElementChild.remove();
}

/** Runs `fill` on the emptied node if `view` is not what it shows: focus and screen readers stay put. */
function refill(node, view, fill) {
  const shown = JSON.stringify(view);
  if (node.shown === shown) return;
  node.shown = shown;
  node.replaceChildren();
  fill(node);
}

let drawing = false;

/** Draws soon, once for all changes of this turn. Not in an animation frame: a hidden tab has none. */
function draw() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    if (open) markRead(open);
    watch();
    drawList();
    drawRoom();
    const unread = sorted().reduce((sum, c) => sum + c.unread, 0);
    document.title = unread ? `(${unread}) Switchboard` : "Switchboard";
    $("me").textContent = me;
  }, 0);
}

const rows = new Map();

function drawList() {
  const nodes = sorted().filter((c) => !c.gone || c === open).map((c) => {
    const { last } = c;
    const author = !last ? "" : last.from === me ? "you: " : isRoom(c) ? `${last.from}: ` : "";
    const view = {
      name: name(c), unread: c.unread, open: c === open,
      online: !isRoom(c) && presence.get(peer(c))?.online === true,
      preview: last ? author + gist(last) : c.known ? "" : "new",
    };
    if (!rows.has(c.id)) rows.set(c.id, row(c));
    const node = rows.get(c.id);
    refill(node.firstChild, view, (button) => fillRow(button, c, view));
    return node;
  });
  arrange($("conversations"), nodes);
  $("nobody").hidden = nodes.length > 0 || !link.ready;
}

function row(c) {
  const node = el("li");
  const button = el("button");
  button.type = "button";
  button.dataset.testid = "conversation";
  button.dataset.id = c.id;
  button.onclick = () => show(c);
  node.append(button);
  return node;
}

function fillRow(button, c, view) {
  if (view.open) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  const title = el("span", "name");
  if (!isRoom(c)) title.append(dot(view.online));
  title.append(el("bdi", "", view.name));
  if (view.unread) {
    const badge = el("span", "badge", view.unread > 999 ? "999+" : view.unread);
    badge.append(el("span", "unseen", " unread"));
    title.append(badge);
  }
  button.append(title, auto(el("span", "preview", view.preview)));
}

function dot(online) {
  const node = el("span", online ? "dot on" : "dot");
  if (online) node.append(el("span", "unseen", "online "));
  return node;
}

const gist = (m) => m.deleted ? "message deleted" : m.text ?? (m.data ? JSON.stringify(m.data) : "");

function when(at) {
  const time = new Date(at);
  const today = time.toDateString() === new Date().toDateString();
  const day = today ? {} : { day: "numeric", month: "short" };
  return time.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" });
}

function presenceText(c) {
  if (!isRoom(c)) {
    if (peer(c) === me) return "only you see this";
    const seen = presence.get(peer(c));
    if (!seen) return "";
    return seen.online ? "online" : seen.last_seen ? `last seen ${when(seen.last_seen)}` : "offline";
  }
  const online = [...c.people.keys()].filter((user) => presence.get(user)?.online);
  const count = c.people.size === 1 ? "1 member" : c.people.size ? `${c.people.size} members` : "";
  return online.length ? `${count}, online: ${online.slice(0, 5).join(", ")}${online.length > 5 ? ", …" : ""}` : count;
}

function drawRoom() {
  const c = open;
  $("app").classList.toggle("in-room", Boolean(c));
  $("choose").hidden = Boolean(c);
  for (const id of ["room-bar", "scroll", "compose"]) $(id).hidden = !c;
  if (!c) return void ($("typing").textContent = "");
  $("room-name").textContent = name(c);
  $("presence").textContent = presenceText(c);
  $("presence").dataset.online = !isRoom(c) && presence.get(peer(c))?.online === true;
  const typers = [...c.typers.keys()];
  $("typing").textContent = typers.length === 0 ? ""
    : typers.length === 1 ? `${typers[0]} is typing…`
    : typers.length === 2 ? `${typers.join(" and ")} are typing…` : "several people are typing…";
  const mute = c.gone ? "You are no longer in this room." : c.role === "reader" ? "You may read here, not write." : "";
  $("composer").disabled = Boolean(mute);
  $("composer").placeholder = mute || "Message";
  $("older").hidden = !c.more;
  $("older").disabled = c.loading;
  drawLog(c);
}

let shownLog = { c: null, nodes: new Map(), first: null, atEnd: true };

function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

/** The log's items in order, each with what its node shows. */
function items(c) {
  const list = [];
  const lines = [...c.events.values()].filter((event) => LINES.includes(event.type));
  const logged = [...c.messages.values(), ...lines].sort((a, b) => a.seq - b.seq);
  const lastOwn = isRoom(c) ? null : [...c.messages.values()].reduce((top, m) => m.from === me ? Math.max(top, m.seq) : top, 0);
  let before = null;
  for (const m of logged) {
    if (m.type !== "message") {
      list.push({ id: `line ${m.seq}`, seq: m.seq, at: m.at, line: lineText(m) });
      before = null;
      continue;
    }
    const follows = before?.from === m.from && Date.parse(m.at) - Date.parse(before.at) < 300_000;
    const read = m.seq === lastOwn && peer(c) !== me && (c.people.get(peer(c)) ?? 0) >= m.seq;
    const answers = m.reply_to === undefined ? null : c.messages.get(m.reply_to);
    list.push({
      // Under its key, a message of one's own keeps its node when it is stored.
      id: m.from === me && m.key !== undefined ? `key ${m.key}` : `seq ${m.seq}`,
      seq: m.seq, from: m.from, own: m.from === me, at: m.at, text: gist(m), deleted: Boolean(m.deleted),
      data: m.text === undefined && m.data !== undefined,
      note: read ? "read" : "", edited: Boolean(m.edited) && !m.deleted, follows,
      reactions: [...m.reactions].map(([emoji, users]) => [emoji, users.length, users.join(", ")]),
      answers: answers ? `${answers.from}: ${gist(answers)}` : m.reply_to === undefined ? "" : "an earlier message",
    });
    before = m;
  }
  for (const item of c.outbox) {
    list.push({
      id: `key ${item.key}`, own: true, from: me, at: item.at, text: item.text, pending: !item.failed, follows: before?.from === me,
      failed: item.failed, note: item.failed ? `not sent: ${item.failed}` : "sending…", reactions: [], answers: "",
    });
  }
  return list;
}

function lineText(event) {
  const { from, user, role, title } = event;
  switch (event.type) {
    case "create": return `${from} made the room${title ? ` “${title}”` : ""}`;
    case "join": return `${from} joined`;
    case "leave": return `${from} left`;
    case "invite": return `${from} added ${user}`;
    case "remove": return `${from} removed ${user}`;
    case "role": return `${from} made ${user} ${role === "admin" ? "an admin" : `a ${role}`}`;
    case "rename": return `${from} renamed the room to “${title}”`;
    default: return "an event that cannot be read";
  }
}

function drawLog(c) {
  const box = $("scroll");
  if (shownLog.c !== c) {
    shownLog = { c, nodes: new Map(), first: null, atEnd: true };
    $("log").replaceChildren();
  }
  const fromEnd = box.scrollHeight - box.scrollTop;
  const list = items(c);
  arrange($("log"), list.map((item) => {
    if (!shownLog.nodes.has(item.id)) shownLog.nodes.set(item.id, el("div"));
    const node = shownLog.nodes.get(item.id);
    drawItem(node, item, c);
    return node;
  }));
  for (const [id, node] of shownLog.nodes) if (!node.isConnected) shownLog.nodes.delete(id);
  // Older messages above must not move what is being read.
  const older = shownLog.first !== null && list.length > 0 && list[0].seq < shownLog.first;
  if (shownLog.atEnd) toEnd();
  else if (older) box.scrollTop = box.scrollHeight - fromEnd;
  shownLog.first = list[0]?.seq ?? null;
}

function drawItem(node, item, c) {
  if (item.seq !== undefined) node.dataset.seq = item.seq;
  if (item.line) {
    node.className = "line";
    node.dataset.testid = "event";
    return refill(node, item.line, () => node.append(el("bdi", "", item.line)));
  }
  node.dataset.testid = "message";
  node.className = ["message", item.own && "own", item.pending && "pending", item.failed && "failed", item.follows && "follows"].filter(Boolean).join(" ");
  if (!node.firstChild) node.append(el("bdi"), el("div", "bubble"), el("div", "foot"));
  const [from, bubble, foot] = node.children;
  from.className = item.follows || item.own ? "unseen" : "from";
  if (from.textContent === "") from.textContent = item.own ? "you" : item.from;
  const { text, data, deleted, answers } = item;
  refill(bubble, { text, data, deleted, answers }, () => {
    if (answers) bubble.append(auto(el("div", "answers", answers)));
    bubble.append(auto(el(data ? "code" : "div", deleted ? "text gone" : "text", text)));
  });
  const { at, edited, note, reactions } = item;
  refill(foot, { at, edited, note, reactions }, () => fillFoot(foot, item, c));
}

function fillFoot(foot, item, c) {
  const time = el("time", "", when(item.at));
  time.dateTime = item.at;
  time.title = new Date(item.at).toLocaleString();
  foot.append(time);
  if (item.edited) foot.append(el("span", "", "edited"));
  if (item.note) foot.append(el("span", "note", item.note));
  for (const [emoji, count, users] of item.reactions) {
    const chip = el("span", "chip", count > 1 ? `${emoji} ${count}` : emoji);
    chip.title = users;
    foot.append(chip);
  }
  if (!item.failed) return;
  const discard = el("button", "", "Discard");
  discard.type = "button";
  discard.onclick = () => { c.outbox = c.outbox.filter((one) => `key ${one.key}` !== item.id); draw(); };
  foot.append(discard);
}

function auto(node) {
  node.dir = "auto";
  return node;
}

function show(c) {
  if (open) open.draft = $("composer").value;
  open = c;
  $("composer").value = c?.draft ?? "";
  $("compose-error").textContent = "";
  if (c) {
    sessionStorage.setItem(`open ${me}`, c.id);
    refresh(c);
  } else sessionStorage.removeItem(`open ${me}`);
  draw();
}

// ---- What the person does.

$("signin").onsubmit = (event) => {
  event.preventDefault();
  const user = $("name").value.trim();
  if (ID.test(user)) location.hash = `user=${encodeURIComponent(user)}`;
  else $("signin-error").textContent = "A name starts with a letter or a digit, then letters, digits and . _ ~ + = | @ -";
};

$("start").onsubmit = async (event) => {
  event.preventDefault();
  const to = $("to").value.trim();
  const id = to.replace(/^[#@]/, "");
  $("start-error").textContent = "";
  try {
    if (!ID.test(id)) throw new Error("A name starts with a letter or a digit, then letters, digits and . _ ~ + = | @ -");
    if (!link.ready) throw new Error("Not connected.");
    if (to.startsWith("#")) await enter(to);
    const c = conversation(to.startsWith("#") ? to : direct(id));
    $("to").value = "";
    show(c);
    $("composer").focus();
  } catch (error) {
    $("start-error").textContent = error.message ?? "Not connected.";
  }
};

/** Into a room: a public one may be joined by anyone, and one that is not there is made. */
async function enter(room) {
  const c = conversations.get(room);
  if (c?.known && !c.gone) return;
  await request({ type: "join", conversation: room }).catch((error) => {
    if (error.code !== "not_found") throw error;
    return request({ type: "create", room: room.slice(1), public: true });
  });
  await relist();
}

$("compose").onsubmit = (event) => {
  event.preventDefault();
  const text = $("composer").value;
  if (!open || open.gone || !text.trim()) return;
  $("compose-error").textContent = write(open, text);
  if ($("compose-error").textContent) return;
  $("composer").value = "";
  shownLog.atEnd = true;
  draw();
};

$("composer").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
};

$("composer").oninput = () => {
  const c = open;
  if (!c?.known || c.gone || !$("composer").value || performance.now() - c.typedAt < 3_000) return;
  c.typedAt = performance.now();
  request({ type: "typing", conversation: c.id }).catch(() => {});
};

$("scroll").onscroll = ({ target }) => {
  shownLog.atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 80;
};
// A telephone's keyboard takes half of the log away: the last message stays in sight.
new ResizeObserver(() => shownLog.atEnd && toEnd()).observe($("scroll"));

$("older").onclick = () => open && loadHistory(open, true).then(draw);
$("back").onclick = () => show(null);
$("again").onclick = connect;
$("leave").onclick = () => {
  sessionStorage.clear();
  if (location.hash) location.hash = "";
  else location.reload();
};
addEventListener("hashchange", () => location.reload());
addEventListener("online", () => link.stopped || connect());
document.addEventListener("visibilitychange", draw);

$("signin").hidden = Boolean(who);
$("app").hidden = $("leave").hidden = !who;
if (who) connect();
else $("name").focus();
draw();
