-- since: 18
-- publication: publish_generated_columns = none
-- setup
CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, thrice int GENERATED ALWAYS AS (a * 3) STORED, z text);
-- changes
INSERT INTO t (id, a, z) VALUES (1, 2, 'z');
UPDATE t SET a = 3;
DELETE FROM t;
