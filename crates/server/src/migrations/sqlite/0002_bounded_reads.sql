-- What reads and counts need so that they do not grow with what is past.

-- The reactions that stand: a message's page reads these, and none that were taken back.
CREATE INDEX reactions_that_stand ON reactions (conversation, target) WHERE until IS NULL;
