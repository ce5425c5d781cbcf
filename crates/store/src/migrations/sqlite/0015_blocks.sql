-- Who blocks whom.
CREATE TABLE blocks (
    user    INTEGER NOT NULL REFERENCES users (id),
    blocked INTEGER NOT NULL REFERENCES users (id),
    at      INTEGER NOT NULL,
    PRIMARY KEY (user, blocked)
) STRICT, WITHOUT ROWID;

-- Who is blocked by whom: the two see nothing of each other.
CREATE INDEX blocks_of_blocked ON blocks (blocked, user);

-- How often a user's list of blocks has changed; 0 for a user who has never blocked anyone, and so needs no look at the table.
ALTER TABLE users ADD COLUMN block_changes INTEGER NOT NULL DEFAULT 0;
