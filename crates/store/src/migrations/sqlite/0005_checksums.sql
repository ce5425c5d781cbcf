-- CRC-32 of an event's other columns, as a signed number: SQLite's pages have no checksums. NULL for events of before.
ALTER TABLE events ADD COLUMN checksum INTEGER;
