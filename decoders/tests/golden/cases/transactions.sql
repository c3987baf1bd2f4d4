-- Transactions that interleave, one without effect, subtransactions of which one is undone, and a
-- change of a table's shape between two changes.
-- setup
CREATE TABLE t (id int PRIMARY KEY, v text);
-- changes
BEGIN;
INSERT INTO t VALUES (1, 'begun first');
other: BEGIN;
other: INSERT INTO t VALUES (2, 'begun second');
INSERT INTO t VALUES (3, 'begun first');
other: COMMIT;
COMMIT;
BEGIN;
INSERT INTO t VALUES (4, 'undone');
ROLLBACK;
BEGIN;
INSERT INTO t VALUES (5, 'kept');
SAVEPOINT s;
INSERT INTO t VALUES (6, 'undone');
ROLLBACK TO s;
INSERT INTO t VALUES (7, 'kept');
COMMIT;
BEGIN;
INSERT INTO t VALUES (8, 'two columns');
ALTER TABLE t ADD COLUMN w int DEFAULT 1;
INSERT INTO t VALUES (9, 'three columns', 2);
ALTER TABLE t DROP COLUMN v;
UPDATE t SET id = 10 WHERE id = 9;
ALTER TABLE t RENAME TO u;
DELETE FROM u WHERE id = 10;
COMMIT;
