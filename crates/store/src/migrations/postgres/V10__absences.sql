-- The nodes, and until when each says that it lives. This table and the next are not logged: each node writes its rows again
-- if they are gone after a crash of the database.
CREATE UNLOGGED TABLE connected_nodes (
    node  text COLLATE "C" NOT NULL PRIMARY KEY,
    until bigint NOT NULL -- by the database's clock
);

-- Which users are connected to which node. A user whose last row goes has gone offline.
CREATE UNLOGGED TABLE connected (
    "user" bigint NOT NULL,
    node   text COLLATE "C" NOT NULL,
    PRIMARY KEY ("user", node)
);

CREATE INDEX connected_by_node ON connected (node);

-- Of which conversation a user who was away missed a message, as the feed says: once for each absence.
CREATE TABLE missed (
    "user"       bigint NOT NULL,
    conversation bigint NOT NULL,
    absence      bigint NOT NULL, -- when the user was last seen before it; 0 for never
    seq          bigint NOT NULL, -- the message
    PRIMARY KEY ("user", conversation)
);
