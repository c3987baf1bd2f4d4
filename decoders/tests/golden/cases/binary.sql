-- since: 14
-- plugin: binary
-- setup
CREATE TABLE t (id int PRIMARY KEY, a bigint, b text, c numeric, d timestamptz, e uuid, f jsonb, g int[], h daterange, i bytea, j double precision, k interval, l boolean, m inet, big text);
ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL;
-- changes
INSERT INTO t VALUES (1, -1, 'Größe', -12345.678, '1999-12-31 23:59:59.999999+00', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1}', '{1,NULL}', '[2000-01-01,)', '\x00ff', 'NaN', '1 mon 2 days', true, '::1', repeat('x', 2100));
UPDATE t SET a = NULL, b = '';
UPDATE t SET id = 2;
DELETE FROM t;
