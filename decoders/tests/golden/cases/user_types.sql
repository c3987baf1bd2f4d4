-- Types with OIDs of their own: described by Type messages.
-- setup
CREATE SCHEMA s;
CREATE EXTENSION hstore SCHEMA public;
CREATE EXTENSION citext SCHEMA public;
CREATE TYPE s."Mood" AS ENUM ('sad', 'it''s ok', 'glücklich');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, "B" text);
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE TABLE t (id int PRIMARY KEY, m s."Mood", n positive, p pair, r float_range, ms s."Mood"[], ps pair[], h public.hstore, c public.citext);
-- changes
INSERT INTO t VALUES (1, 'it''s ok', 7, ROW(1, 'a"b,c'), '[1.5,)', ARRAY['sad', NULL]::s."Mood"[], ARRAY[ROW(1, NULL)::pair], 'a=>1, b=>NULL', 'CaseLess');
UPDATE t SET m = 'glücklich', p = ROW(NULL, NULL), r = 'empty', ms = '{}', h = '', c = NULL;
DELETE FROM t;
