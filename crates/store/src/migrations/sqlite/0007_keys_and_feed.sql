-- What an API key may do. The defaults are what a key of before could do.
ALTER TABLE api_keys ADD COLUMN number INTEGER;    -- never given again; `via` of events names it
ALTER TABLE api_keys ADD COLUMN scopes TEXT NOT NULL DEFAULT 'act,revoke';
ALTER TABLE api_keys ADD COLUMN acts_as TEXT;      -- a pattern of user ids; NULL for all
ALTER TABLE api_keys ADD COLUMN expires INTEGER;
ALTER TABLE api_keys ADD COLUMN rate INTEGER;      -- writes a second; NULL for the server's limit
ALTER TABLE api_keys ADD COLUMN addresses TEXT;    -- networks, separated by commas; NULL for all
ALTER TABLE api_keys ADD COLUMN no_text INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN unasked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN parent INTEGER;    -- the number of the key that made this one
ALTER TABLE api_keys ADD COLUMN used INTEGER;      -- the hour of the last use
ALTER TABLE api_keys ADD COLUMN old_hash BLOB;     -- of the secret before the last rotation,
ALTER TABLE api_keys ADD COLUMN old_until INTEGER; -- which is good until then

UPDATE api_keys SET number = rowid;
CREATE UNIQUE INDEX api_keys_by_number ON api_keys (number);
CREATE UNIQUE INDEX api_keys_by_old_hash ON api_keys (old_hash) WHERE old_hash IS NOT NULL;

-- An earlier version inserts keys without a number.
CREATE TRIGGER number_key AFTER INSERT ON api_keys WHEN NEW.number IS NULL BEGIN
    UPDATE api_keys SET number = (SELECT coalesce(max(number), 0) + 1 FROM api_keys) WHERE rowid = NEW.rowid;
END;

-- The maker of an event: the number of an API key, 0 for the user. `feed` is the event's number in the feed; NULL for events
-- of before.
ALTER TABLE events ADD COLUMN via INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN feed INTEGER;

-- The number of the last event in the feed. The writer finds by it what is in no page yet.
ALTER TABLE conversations ADD COLUMN feed INTEGER NOT NULL DEFAULT 0;

-- The index of the feed, some hundred numbers in a row: docs/decisions/0053-feed-pages.md.
CREATE TABLE feed_pages (
    first INTEGER PRIMARY KEY, -- the number of its first entry
    last  INTEGER NOT NULL,
    at    INTEGER NOT NULL,    -- of the page
    runs  BLOB NOT NULL        -- which events have these numbers
) STRICT;

-- Entries of the feed that are no events.
CREATE TABLE feed_entries (
    number  INTEGER PRIMARY KEY,
    type    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    user    INTEGER,          -- the user whom it is about
    via     INTEGER NOT NULL,
    address TEXT,
    body    TEXT NOT NULL     -- JSON: its other fields
) STRICT;

-- Entries that another process wrote beside the server, which has the numbers.
CREATE TABLE feed_pending (
    id      INTEGER PRIMARY KEY,
    type    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    user    INTEGER,
    via     INTEGER NOT NULL,
    address TEXT,
    body    TEXT NOT NULL
) STRICT;

CREATE TABLE feed_state (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,      -- empty in a copy: the first server on it begins a new epoch
    last  INTEGER             -- the last number, if a server has closed the database; NULL while one may write
) STRICT;

INSERT INTO feed_state (id, epoch, last) VALUES (1, lower(hex(randomblob(4))), 0);

-- How far the parts of the server that read the feed have come.
CREATE TABLE consumers (
    name       TEXT NOT NULL PRIMARY KEY,
    epoch      TEXT NOT NULL,
    position   INTEGER NOT NULL,
    at         INTEGER NOT NULL,           -- when it moved last
    node       TEXT,                       -- the node that reads for it, and until when
    until      INTEGER,
    generation INTEGER NOT NULL DEFAULT 0, -- changes when an operator moves the position
    state      TEXT NOT NULL DEFAULT '{}'  -- JSON: what it knows besides its position
) STRICT;

-- Endpoints that the feed is sent to. Each is the consumer `webhook:NAME`.
CREATE TABLE webhooks (
    name      TEXT NOT NULL PRIMARY KEY,
    created   INTEGER NOT NULL,
    settings  TEXT NOT NULL,    -- JSON: where to send, and what
    version   INTEGER NOT NULL, -- of the secret, which is derived from it
    old_until INTEGER,          -- until then the secret before signs as well
    paused    TEXT,             -- why nothing is sent; NULL while it is
    parent    INTEGER           -- the number of the key that made it
) STRICT;
