-- The widest table there can be, and the narrowest.
-- setup
DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE wide (' || string_agg('c' || i || ' int2 DEFAULT ' || i, ',' ORDER BY i) || ', PRIMARY KEY (c1))' FROM generate_series(1, 1600) i); END $$;
CREATE TABLE narrow ();
ALTER TABLE narrow REPLICA IDENTITY FULL;
-- changes
INSERT INTO wide DEFAULT VALUES;
UPDATE wide SET c1600 = NULL;
DELETE FROM wide;
INSERT INTO narrow DEFAULT VALUES;
DELETE FROM narrow;
