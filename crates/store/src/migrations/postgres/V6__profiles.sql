-- What users show of themselves. A user without a row has no profile.
CREATE TABLE profiles (
    "user"  bigint PRIMARY KEY,
    name    text,
    avatar  text,             -- the id of a file, or an https: URL
    data    text,             -- JSON
    version bigint NOT NULL,  -- grows with each change
    active  boolean NOT NULL, -- false if the application says that the user is gone
    changed bigint NOT NULL,  -- when it changed last
    issued  bigint,           -- `iat` of the token that it was last read from
    claims  text              -- a hash of that token's claims
);

-- A node that has missed notices reads what has changed since.
CREATE INDEX profiles_by_change ON profiles (changed, "user");

-- The folded name from each of its words on, and the folded id: src/search.rs.
CREATE TABLE profile_words (
    word   text COLLATE "C" NOT NULL,
    "user" bigint NOT NULL,
    PRIMARY KEY (word, "user")
);
