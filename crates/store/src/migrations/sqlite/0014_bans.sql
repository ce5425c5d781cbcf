-- Who is kept out of a room, or, with the conversation 0, of the installation.
CREATE TABLE bans (
    conversation INTEGER NOT NULL,
    user         INTEGER NOT NULL,
    until        INTEGER NOT NULL, -- 253402300799999, the end of the year 9999, for a ban without an end
    at           INTEGER NOT NULL,
    reason       TEXT,             -- the user gets it
    note         TEXT,             -- for moderators only
    PRIMARY KEY (conversation, user)
) STRICT, WITHOUT ROWID;

-- Until when a member is a reader in any role; 0 for a member who is not silenced.
ALTER TABLE members ADD COLUMN silenced INTEGER NOT NULL DEFAULT 0;

-- When the member's last message was stored while the room was in slow mode.
ALTER TABLE members ADD COLUMN sent_at INTEGER NOT NULL DEFAULT 0;

-- How many milliseconds there are between two messages of a member at least; 0 for no bound.
ALTER TABLE conversations ADD COLUMN slow INTEGER NOT NULL DEFAULT 0;

-- Whether a user who was removed may join again.
ALTER TABLE conversations ADD COLUMN rejoin INTEGER NOT NULL DEFAULT 1;
