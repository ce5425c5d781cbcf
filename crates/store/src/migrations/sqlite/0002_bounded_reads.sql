-- What reads and counts need so that they do not grow with what is past.

-- The reactions that stand: a message's page reads these, and none that were taken back.
CREATE INDEX reactions_that_stand ON reactions (conversation, target) WHERE until IS NULL;

-- The rooms that somebody is in, without the direct conversations, which others open: there `since` is 0.
CREATE INDEX rooms_of_user ON members (user, conversation) WHERE until IS NULL AND since > 0;

-- The rooms that somebody is in because they made or joined them, for the limit on those.
CREATE TABLE rooms_by_choice (
    user         INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    PRIMARY KEY (user, conversation)
) STRICT, WITHOUT ROWID;

INSERT INTO rooms_by_choice (user, conversation)
SELECT m.user, m.conversation
FROM members m JOIN events e ON e.conversation = m.conversation AND e.seq = m.since
WHERE m.until IS NULL AND e.sender = m.user AND e.kind IN (5, 6); -- create, join
