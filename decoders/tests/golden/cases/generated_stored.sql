-- Generated columns are not in the stream.
-- since: 12
-- setup
CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, z text);
-- changes
INSERT INTO t VALUES (1, 2, DEFAULT, 'z');
UPDATE t SET a = 3;
DELETE FROM t;
