-- Messages that wait for a moderator outside the log. Each is an entry of the queue of reports, which has its content.
CREATE TABLE held (
    report  bigint PRIMARY KEY,
    "user"  bigint NOT NULL,           -- the author
    key     text   NOT NULL COLLATE "C", -- the author's key for the message
    peer    bigint NOT NULL,           -- the other user of a direct conversation; 0 for a room, which the report names
    via     bigint NOT NULL,           -- what has sent it
    request text,                      -- the digest of the request, if the application has replaced it
    state   bigint NOT NULL DEFAULT 0  -- 0 waiting, 1 released, 2 rejected
);
CREATE UNIQUE INDEX held_by_key ON held ("user", key);
CREATE INDEX held_waiting ON held ("user") WHERE state = 0;

-- A user under a shadow ban stays connected, and their messages are held.
ALTER TABLE bans ADD COLUMN shadow boolean NOT NULL DEFAULT false;
