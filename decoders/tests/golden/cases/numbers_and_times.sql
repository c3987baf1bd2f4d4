-- setup
CREATE TABLE n (id int PRIMARY KEY, a smallint, b bigint, c real, d double precision, e numeric, f numeric(20, 5), g money, h boolean, i oid);
CREATE TABLE d (id int PRIMARY KEY, a date, b time, c timetz, d timestamp, e timestamptz, f interval);
-- changes
INSERT INTO n VALUES (1, -32768, -9223372036854775808, 'NaN', '-Infinity', 'NaN', -0.00001, -1234567.89, true, 4294967295);
INSERT INTO n VALUES (2, 32767, 9223372036854775807, 1e-45, 0.1::float8 + 0.2, 1e-1000, 12345678.9, '92233720368547758.07', false, 0);
INSERT INTO n VALUES (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
14: INSERT INTO n (id, e) VALUES (4, 'Infinity'), (5, '-Infinity');
INSERT INTO d VALUES (1, 'infinity', '24:00:00', '23:59:59.999999+15:59', '-infinity', 'infinity', '-178000000 years');
INSERT INTO d VALUES (2, '4713-01-01 BC', '00:00', '00:00-15:59', '4713-01-01 00:00 BC', '0001-12-31 23:59:59.999999+00 BC', '1 year -1 mons 3 days -00:00:00.000001');
INSERT INTO d VALUES (3, '5874897-12-31', '12:34:56.789', '12:34:56+02', '294276-12-31 23:59:59.999999', '1970-01-01 00:00+00', '0');
