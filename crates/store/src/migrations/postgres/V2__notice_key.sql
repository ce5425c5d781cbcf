-- What the nodes of an installation share besides its log.
--
-- `notices` is the key of the MAC by which a node recognises the notices of the others on the bus. A UUID of version 4 has 122
-- random bits (RFC 9562 section 5.4), and PostgreSQL draws them from its strong source, so two make a key of 244 bits.

CREATE TABLE secrets (
    name  text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

INSERT INTO secrets (name, value)
VALUES ('notices', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
