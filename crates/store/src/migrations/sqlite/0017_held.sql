-- Messages that wait for a moderator outside the log. Each is an entry of the queue of reports, which has its content.
CREATE TABLE held (
    report  INTEGER NOT NULL PRIMARY KEY,
    user    INTEGER NOT NULL,           -- the author
    key     TEXT    NOT NULL,           -- the author's key for the message
    peer    INTEGER NOT NULL,           -- the other user of a direct conversation; 0 for a room, which the report names
    via     INTEGER NOT NULL,           -- what has sent it
    request TEXT,                       -- the digest of the request, if the application has replaced it
    state   INTEGER NOT NULL DEFAULT 0  -- 0 waiting, 1 released, 2 rejected
) STRICT;
CREATE UNIQUE INDEX held_by_key ON held (user, key);
CREATE INDEX held_waiting ON held (user) WHERE state = 0;

-- A user under a shadow ban stays connected, and their messages are held.
ALTER TABLE bans ADD COLUMN shadow INTEGER NOT NULL DEFAULT 0;
