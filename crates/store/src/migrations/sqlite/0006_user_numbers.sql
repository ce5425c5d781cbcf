-- The kinds of events that any version has entered, so that an earlier one can pass them on.
CREATE TABLE kinds (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL,
    users  TEXT NOT NULL -- JSON: the names of its fields that hold users
) STRICT;

-- Bodies of events name users by number from here on. This is how far the writer has rewritten those of before, which
-- have ids: up to this event, in the order of the primary key. There is no row once it has rewritten all of them.
CREATE TABLE rewrite (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    conversation INTEGER NOT NULL,
    seq          INTEGER NOT NULL
) STRICT;

INSERT INTO rewrite (id, conversation, seq) SELECT 1, 0, 0 WHERE EXISTS (SELECT 1 FROM events);
