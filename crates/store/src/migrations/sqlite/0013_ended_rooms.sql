-- Whether the room was deleted. The row stays, so that no other room gets its id.
ALTER TABLE conversations ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;

-- The deleted rooms of which content is left. The writer removes it in slices.
CREATE TABLE ended_rooms (
    conversation INTEGER NOT NULL PRIMARY KEY,
    member       INTEGER NOT NULL DEFAULT 0 -- the memberships of users up to this one have ended
) STRICT;
