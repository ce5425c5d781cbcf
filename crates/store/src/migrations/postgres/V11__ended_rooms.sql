-- Whether the room was deleted. The row stays, so that no other room gets its id.
ALTER TABLE conversations ADD COLUMN ended boolean NOT NULL DEFAULT false;

-- The deleted rooms of which content is left. The nodes remove it in slices.
CREATE TABLE ended_rooms (
    conversation bigint PRIMARY KEY,
    member       bigint NOT NULL DEFAULT 0 -- the memberships of users up to this one have ended
);
