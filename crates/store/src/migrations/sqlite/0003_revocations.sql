-- Tokens of a user that were made at this time or before are good no more; NULL while none have been revoked.
ALTER TABLE users ADD COLUMN not_before INTEGER;
