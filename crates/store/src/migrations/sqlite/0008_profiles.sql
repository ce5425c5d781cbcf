-- What users show of themselves. A user without a row has no profile.
CREATE TABLE profiles (
    user    INTEGER PRIMARY KEY REFERENCES users (id),
    name    TEXT,
    avatar  TEXT,             -- the id of a file, or an https: URL
    data    TEXT,             -- JSON
    version INTEGER NOT NULL, -- grows with each change
    active  INTEGER NOT NULL, -- 0 if the application says that the user is gone
    changed INTEGER NOT NULL, -- when it changed last
    issued  INTEGER,          -- `iat` of the token that it was last read from
    claims  TEXT              -- a hash of that token's claims
) STRICT;

-- The folded name from each of its words on, and the folded id: src/search.rs.
CREATE TABLE profile_words (
    word TEXT NOT NULL,
    user INTEGER NOT NULL REFERENCES users (id),
    PRIMARY KEY (word, user)
) STRICT, WITHOUT ROWID;
