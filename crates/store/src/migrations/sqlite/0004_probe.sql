-- What the health probe writes: as much as a message, and nothing that anybody reads.
CREATE TABLE probe (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    filler BLOB NOT NULL
) STRICT;

-- Says that this is a database of Switchboard: "swbd" (sqlite.org/fileformat.html section 1.3.11).
PRAGMA application_id = 1937203812;
