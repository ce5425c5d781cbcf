-- Ids that are never given again: those of renamed users.
CREATE TABLE retired_ids (
    name   text COLLATE "C" PRIMARY KEY,
    "user" bigint,          -- the user who had it
    at     bigint NOT NULL
);
