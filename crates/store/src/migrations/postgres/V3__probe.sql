-- What the health probe writes in its node's row: as much as a message, and nothing that anybody reads.
ALTER TABLE writers ADD COLUMN probe bytea;
ALTER TABLE writers ALTER COLUMN probe SET STORAGE EXTERNAL;
