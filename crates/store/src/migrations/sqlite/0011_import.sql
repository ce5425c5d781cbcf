-- Whether an import has said how far the member has read. Other members have read what is imported.
ALTER TABLE members ADD COLUMN read_imported INTEGER NOT NULL DEFAULT 0;
