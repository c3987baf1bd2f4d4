-- setup
CREATE TABLE t (id int PRIMARY KEY, a text, b varchar(10), c char(5), d name, e "char", f bytea, g bit(3), h bit varying, i uuid);
CREATE TABLE s (id int PRIMARY KEY, a json, b jsonb, c tsvector, d tsquery, e inet, f cidr, g macaddr, h macaddr8, i point, j polygon, k pg_lsn, l regclass);
CREATE TABLE r (id int PRIMARY KEY, a int4range, b numrange, c tstzrange, d daterange, e int[], f text[][], g daterange[]);
14: CREATE TABLE m (id int PRIMARY KEY, a int4multirange, b datemultirange);
-- changes
INSERT INTO t VALUES (1, E'tab\t quote'' back\\ null\\N line\n Größe 日本 😀', 'ü', 'x', 'name', 'c', '\x00ff5c', '101', '', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
INSERT INTO t VALUES (2, '', '', '', '', '', '', '000', '1', NULL);
INSERT INTO s VALUES (1, '{"b": 1, "a":  [null, 1.50]}', '{"b": 1, "a": [null, 1.50, "ü\u0041"]}', 'fat:2A,4 cat:3 ''it''''s''', '(fat | rat) & !cat:*', '192.168.0.1/24', '::/0', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1.5,-0)', '((0,0),(1,1))', '16/B374D848', 'pg_class');
INSERT INTO r VALUES (1, '[1,5)', '(,1.5]', '[infinity,)', 'empty', '{1,NULL,3}', '{{a,"b c"},{"","\""}}', ARRAY['[2000-01-01,)'::daterange]);
INSERT INTO r VALUES (2, NULL, NULL, NULL, NULL, '[0:1]={1,2}', '{}', NULL);
14: INSERT INTO m VALUES (1, '{[1,3),[7,9)}', '{}');
