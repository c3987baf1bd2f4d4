-- The same under the name of the partitioned table.
-- since: 13
-- publication: publish_via_partition_root = true
-- setup
CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (v text, extra int, id int NOT NULL);
ALTER TABLE p2 DROP COLUMN extra;
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
-- changes
INSERT INTO p VALUES (1, 'one'), (11, 'eleven');
UPDATE p SET v = 'new';
UPDATE p SET id = 12 WHERE id = 1;
DELETE FROM p;
TRUNCATE p;
