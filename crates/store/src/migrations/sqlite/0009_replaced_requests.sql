-- What the sender of a message requested, where the application has replaced its content: a retry of the request is compared
-- with this, and not with the message. The row goes when the message is deleted.
CREATE TABLE replaced_requests (
    conversation INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    request      BLOB NOT NULL, -- its SHA-256
    PRIMARY KEY (conversation, seq)
) STRICT, WITHOUT ROWID;
