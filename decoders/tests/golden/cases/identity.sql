-- Every replica identity with every row change; NULL, empty, unchanged TOAST; a key that changes,
-- and one that is TOASTed itself.
-- setup
CREATE TABLE by_default (id int PRIMARY KEY, note text, big text);
CREATE TABLE by_index (a int NOT NULL, id int NOT NULL UNIQUE, big text);
CREATE TABLE by_full (id int, note text, big text);
CREATE TABLE by_nothing (id int, note text);
CREATE TABLE toasted_key (k text PRIMARY KEY, n int);
ALTER TABLE by_default ALTER COLUMN big SET STORAGE EXTERNAL;
ALTER TABLE by_index ALTER COLUMN big SET STORAGE EXTERNAL;
ALTER TABLE by_full ALTER COLUMN big SET STORAGE EXTERNAL;
ALTER TABLE toasted_key ALTER COLUMN k SET STORAGE EXTERNAL;
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id_key;
ALTER TABLE by_full REPLICA IDENTITY FULL;
ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
-- changes
INSERT INTO by_default VALUES (1, NULL, repeat('x', 2100)), (2, '', NULL);
UPDATE by_default SET note = 'changed' WHERE id = 1;
UPDATE by_default SET id = 3 WHERE id = 1;
DELETE FROM by_default;
INSERT INTO by_index VALUES (1, 2, repeat('x', 2100));
UPDATE by_index SET a = 3;
UPDATE by_index SET id = 4;
DELETE FROM by_index;
INSERT INTO by_full VALUES (1, NULL, repeat('x', 2100));
UPDATE by_full SET note = '';
UPDATE by_full SET big = NULL;
DELETE FROM by_full;
INSERT INTO by_nothing VALUES (1, 'only inserts');
INSERT INTO toasted_key VALUES (repeat('k', 2000), 1);
UPDATE toasted_key SET n = 2;
DELETE FROM toasted_key;
