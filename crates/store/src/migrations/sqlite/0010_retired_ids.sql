-- Ids that are never given again: those of renamed users.
CREATE TABLE retired_ids (
    name TEXT NOT NULL PRIMARY KEY,
    user INTEGER,         -- the user who had it
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
