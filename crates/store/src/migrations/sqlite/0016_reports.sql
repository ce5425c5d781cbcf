-- What users have reported: a message, or, with the conversation 0, a user.
CREATE TABLE reports (
    id           INTEGER NOT NULL PRIMARY KEY,
    conversation INTEGER NOT NULL,
    target       INTEGER NOT NULL,           -- the message; 0 for a user
    user         INTEGER NOT NULL,           -- the author of the message, or the user
    at           INTEGER NOT NULL,
    snapshot     TEXT    NOT NULL,           -- JSON; empty once it was removed
    state        INTEGER NOT NULL DEFAULT 0, -- 0 open, 1 claimed, 2 done
    moderator    INTEGER NOT NULL DEFAULT 0, -- the user who claimed or decided it; 0 for none
    claimed      INTEGER NOT NULL DEFAULT 0,
    decided      INTEGER NOT NULL DEFAULT 0,
    action       TEXT,
    note         TEXT
) STRICT;
CREATE INDEX reports_by_target ON reports (conversation, target, user);
CREATE INDEX reports_by_state ON reports (state, id);
CREATE INDEX reports_by_decision ON reports (decided) WHERE decided > 0;

-- Who has reported it, and why.
CREATE TABLE reporters (
    report INTEGER NOT NULL,
    user   INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    reason TEXT    NOT NULL,
    text   TEXT,
    PRIMARY KEY (report, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX reporters_by_user ON reporters (user, at);
