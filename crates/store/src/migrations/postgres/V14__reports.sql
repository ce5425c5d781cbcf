-- What users have reported: a message, or, with the conversation 0, a user.
CREATE TABLE reports (
    id           bigint PRIMARY KEY,
    conversation bigint NOT NULL,
    target       bigint NOT NULL,           -- the message; 0 for a user
    "user"       bigint NOT NULL,           -- the author of the message, or the user
    at           bigint NOT NULL,
    snapshot     text   NOT NULL,           -- JSON; empty once it was removed
    state        bigint NOT NULL DEFAULT 0, -- 0 open, 1 claimed, 2 done
    moderator    bigint NOT NULL DEFAULT 0, -- the user who claimed or decided it; 0 for none
    claimed      bigint NOT NULL DEFAULT 0,
    decided      bigint NOT NULL DEFAULT 0,
    action       text,
    note         text
);
CREATE INDEX reports_by_target ON reports (conversation, target, "user");
CREATE INDEX reports_by_state ON reports (state, id);
CREATE INDEX reports_by_decision ON reports (decided) WHERE decided > 0;

-- Who has reported it, and why.
CREATE TABLE reporters (
    report bigint NOT NULL,
    "user" bigint NOT NULL,
    at     bigint NOT NULL,
    reason text   NOT NULL,
    text   text,
    PRIMARY KEY (report, "user")
);
CREATE INDEX reporters_by_user ON reporters ("user", at);
