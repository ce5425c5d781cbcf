-- The log and everything that is folded from it. Times are milliseconds since the Unix epoch; a seq
-- of 0 means "none". Migrations are append-only: this file never changes once released.

CREATE TABLE users (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    last_seen INTEGER
) STRICT;

CREATE TABLE conversations (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    title        TEXT,
    public       INTEGER NOT NULL,
    head         INTEGER NOT NULL,
    messages     INTEGER NOT NULL, -- how many of the events are messages
    last_message INTEGER NOT NULL,
    members      INTEGER NOT NULL,
    admins       INTEGER NOT NULL,
    at           INTEGER NOT NULL  -- of the last event
) STRICT;

CREATE TABLE members (
    conversation  INTEGER NOT NULL,
    user          INTEGER NOT NULL,
    role          INTEGER NOT NULL,
    since         INTEGER NOT NULL, -- the event of joining
    until         INTEGER,          -- the event of leaving; NULL while a member
    read          INTEGER NOT NULL,
    received      INTEGER NOT NULL,
    sent          INTEGER NOT NULL, -- own messages in the conversation
    read_messages INTEGER NOT NULL, -- messages up to `read`, and own ones among them: unread is
    read_sent     INTEGER NOT NULL, -- (messages - read_messages) - (sent - read_sent)
    PRIMARY KEY (conversation, user)
) STRICT, WITHOUT ROWID;

CREATE INDEX members_of_user ON members (user, conversation) WHERE until IS NULL;

CREATE TABLE events (
    conversation INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    kind         INTEGER NOT NULL,
    sender       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    messages     INTEGER NOT NULL, -- messages up to here, this one included
    key          TEXT,             -- of a message; kept when the content is erased
    body         TEXT NOT NULL,    -- JSON: the fields of its kind
    PRIMARY KEY (conversation, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX events_by_key ON events (sender, key) WHERE key IS NOT NULL;

-- The edits of a message and, last, its deletion.
CREATE TABLE amendments (
    conversation INTEGER NOT NULL,
    target       INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    PRIMARY KEY (conversation, target, seq)
) STRICT, WITHOUT ROWID;

-- Who reacted how, from which event to which: somebody who left between the two still sees it, and a
-- retry is told its event.
CREATE TABLE reactions (
    conversation INTEGER NOT NULL,
    target       INTEGER NOT NULL,
    emoji        TEXT NOT NULL,
    user         INTEGER NOT NULL,
    since        INTEGER NOT NULL, -- the event that set it
    until        INTEGER,          -- the event that took it back; NULL while it stands
    PRIMARY KEY (conversation, target, emoji, user, since)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    name    TEXT NOT NULL PRIMARY KEY,
    hash    BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT;
