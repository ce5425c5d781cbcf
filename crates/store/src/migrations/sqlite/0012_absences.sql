-- The users who were connected when the server stopped. Those who do not come back went offline.
CREATE TABLE connected (
    user INTEGER PRIMARY KEY
) STRICT;

-- Of which conversation a user who was away missed a message, as the feed says: once for each absence.
CREATE TABLE missed (
    user         INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    absence      INTEGER NOT NULL, -- when the user was last seen before it; 0 for never
    seq          INTEGER NOT NULL, -- the message
    PRIMARY KEY (user, conversation)
) STRICT, WITHOUT ROWID;
