-- The kinds of events that any version has entered, so that an earlier one can pass them on.
CREATE TABLE kinds (
    number smallint PRIMARY KEY,
    name   text COLLATE "C" NOT NULL,
    users  text NOT NULL -- JSON: the names of its fields that hold users
);

-- The version of the installation: what its nodes must be able to read, because some node may have written it. From version
-- 1 on, bodies of events name users by number.
CREATE TABLE installation (
    id      boolean PRIMARY KEY DEFAULT true CHECK (id),
    version integer NOT NULL
);

INSERT INTO installation (version) VALUES (0);

-- How far a node has rewritten the bodies of before, which have ids: up to this event, in the order of the primary key.
-- There is no row while there is nothing to rewrite.
CREATE TABLE rewrite (
    id           boolean PRIMARY KEY DEFAULT true CHECK (id),
    conversation bigint NOT NULL,
    seq          bigint NOT NULL
);

-- What a node knows. One of an earlier version says nothing of it.
ALTER TABLE writers
    ADD COLUMN version      integer NOT NULL DEFAULT 0,
    ADD COLUMN features     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN installation integer NOT NULL DEFAULT 0; -- its version when this row was put

-- Every node puts its row first in each of its transactions, also one that was started before this migration. The lock keeps the
-- version as it is until the transaction ends: a node raises it under the exclusive lock of the same number. The statements
-- of a function see what was committed before them, also after they have waited.
CREATE FUNCTION check_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(33325589488824174); -- "version" in ASCII
    SELECT i.version INTO STRICT NEW.installation FROM installation i;
    IF NEW.version < NEW.installation THEN
        RAISE EXCEPTION USING ERRCODE = 'SB001', MESSAGE = format(
            'the installation has version %s and this node knows %s', NEW.installation, NEW.version);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER check_writer BEFORE INSERT ON writers FOR EACH ROW EXECUTE FUNCTION check_writer();

-- The fields of an event's body; NULL for a body that is damaged, so that it does not fail a query over many. PostgreSQL has no
-- NUL in its texts, so U+FFFD stands for it.
CREATE FUNCTION event_fields(body text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN body::jsonb;
EXCEPTION
    WHEN untranslatable_character THEN
        BEGIN
            RETURN regexp_replace(body, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb;
        EXCEPTION WHEN OTHERS THEN
            RETURN NULL;
        END;
    WHEN OTHERS THEN
        RETURN NULL;
END
$$;
