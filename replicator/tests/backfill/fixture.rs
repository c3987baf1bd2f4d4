//! A database with something of everything, as far as the major version has it.

/// SQL for the version; roles are the cluster's and made apart ([`ROLES`]).
pub fn sql(major: u32) -> String {
    let since = |first: u32, sql: &'static str| if major >= first { sql } else { "" };
    [
        BASE,
        since(11, PARTITIONS_11),
        since(12, GENERATED_12),
        since(14, SINCE_14),
        since(15, SINCE_15),
        since(18, SINCE_18),
        VIEWS,
        LAST,
    ]
    .join("\n")
}

pub const ROLES: &[&str] = &["shop_owner", "Reader \"R\""];

const BASE: &str = r#"
CREATE SCHEMA "Übung \Schema";
CREATE SCHEMA shop AUTHORIZATION shop_owner;
CREATE EXTENSION hstore;
CREATE EXTENSION citext WITH SCHEMA shop;
CREATE EXTENSION btree_gist;
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE TYPE shop.point3 AS (x int, y int, label text);
CREATE TYPE shop.deep AS (at shop.point3, feeling shop.mood);
CREATE TYPE shop.floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE shop.moodrange AS RANGE (subtype = shop.mood);
CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
CREATE DOMAIN shop.moods AS shop.mood[];
CREATE SEQUENCE shop.numbers START 100 INCREMENT 5;
CREATE FUNCTION shop.twice(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
  -- a ; and a 'quote
  RETURN i * 2; END; $body$;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'a trigger fired'; END $$;
CREATE OPERATOR shop.=== (LEFTARG = int, RIGHTARG = int, PROCEDURE = int4eq);
CREATE AGGREGATE shop.total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE COLLATION shop.plain FROM "C";

CREATE TABLE shop.types (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  b boolean, i2 smallint, i4 integer, i8 bigint, n numeric, n2 numeric(12,3), f4 real, f8 float8,
  t text, vc varchar(20), c char(5), by bytea, d date, ti time, tz timetz, ts timestamp, tstz timestamptz,
  iv interval, u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, ma macaddr, ma8 macaddr8,
  bi bit(5), vb varbit, m money, tsv tsvector, tsq tsquery, p point, l line, ls lseg, bx box, pa path,
  po polygon, ci2 circle, r4 int4range, rn numrange, rtz tstzrange, a4 int[], at text[][], o oid, rc regclass,
  lsn pg_lsn);
INSERT INTO shop.types (b, i2, i4, i8, n, n2, f4, f8, t, vc, c, by, d, ti, tz, ts, tstz, iv, u, j, jb, x, ip, ci, ma, ma8,
  bi, vb, m, tsv, tsq, p, l, ls, bx, pa, po, ci2, r4, rn, rtz, a4, at, o, rc, lsn)
SELECT g % 2 = 0, g, -g, g * 10000000000, CASE g % 3 WHEN 0 THEN 'NaN' ELSE (g || '.0000000000000000000012300')::numeric END,
  1.5, 0.1, 1e-300 * g, E'tab\t newline\n \\ € ' || repeat('x', g), 'v', 'c', decode(md5(g::text), 'hex'),
  CASE g % 4 WHEN 0 THEN 'infinity'::date WHEN 1 THEN '-infinity' WHEN 2 THEN '0044-03-15 BC' ELSE '20000-01-01' END,
  '24:00', '12:00:00.000001+14', CASE g % 2 WHEN 0 THEN 'infinity'::timestamp ELSE '0001-01-01 BC' END, '1900-01-01 00:00:01.999999+00',
  '-1 year 2 mons -3 days 04:05:06.789', md5(g::text)::uuid, '{"b": 1, "a":  [1,2]}', '{"b": 1, "a": 1.10}', '<a>b &amp; c</a>',
  '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'10101', B'1', '$-12.34', 'a:1 b:2A', 'a & !b',
  '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1))', '<(0,0),5>', '[1,5)', '(,7]', 'empty',
  '{1,NULL,3}', '[0:1][1:2]={{a,b},{"c ,\"",NULL}}', 4000000000, 'shop.types', '16/B374D848'
FROM generate_series(1, 200) g;
INSERT INTO shop.types DEFAULT VALUES;

CREATE TABLE shop.custom (
  id int PRIMARY KEY, e shop.mood, ea shop.mood[], c shop.point3, ca shop.point3[], dd shop.deep, r shop.floatrange,
  mr shop.moodrange, dp shop.positive, dm shop.moods, h hstore, ct shop.citext UNIQUE);
INSERT INTO shop.custom SELECT g, 'it''s "fine"', '{sad,NULL}', (1, NULL, 'a,"b')::shop.point3, ARRAY[(1,2,'x')::shop.point3, NULL],
  ROW((1,2,'y')::shop.point3, 'ok'::shop.mood)::shop.deep, '[1.5,2.5)', '[sad,ok]', 7, '{ok,sad}', 'a=>1, "b c"=>NULL', 'MiXed' || g
FROM generate_series(1, 50) g;
CREATE TABLE shop.enum_only (id int PRIMARY KEY, e shop.mood, r shop.floatrange, c shop.point3);
INSERT INTO shop.enum_only SELECT g, 'ok', '[1,2]', ROW(g, g, 'z')::shop.point3 FROM generate_series(1, 10) g;

CREATE TABLE "Übung \Schema"."Größe ""quoted"" 'x'" ("Spalte 1" int, "select" text, "a""b" int DEFAULT 5 CHECK ("a""b" > 0));
INSERT INTO "Übung \Schema"."Größe ""quoted"" 'x'" SELECT g, 's' || g FROM generate_series(1, 10) g;
CREATE TABLE shop.nothing ();
INSERT INTO shop.nothing DEFAULT VALUES; INSERT INTO shop.nothing DEFAULT VALUES;
CREATE TABLE shop.dropped (a int, b text, c int); ALTER TABLE shop.dropped DROP COLUMN b;
INSERT INTO shop.dropped SELECT g, g FROM generate_series(1, 20) g;
CREATE TABLE shop.empty (id serial PRIMARY KEY, t text);

CREATE TABLE shop.parent (id int PRIMARY KEY, other int, t text);
CREATE TABLE shop.child_inherits (extra int) INHERITS (shop.parent);
INSERT INTO shop.parent SELECT g, g, 'p' FROM generate_series(1, 10) g;
INSERT INTO shop.child_inherits SELECT 100 + g, g, 'c', g FROM generate_series(1, 10) g;

CREATE TABLE shop.left (id int PRIMARY KEY, r int, self int REFERENCES shop.left);
CREATE TABLE shop.right (id int PRIMARY KEY, l int NOT NULL REFERENCES shop.left ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE shop.left ADD CONSTRAINT "circle ""c""" FOREIGN KEY (r) REFERENCES shop.right ON UPDATE SET NULL;
INSERT INTO shop.left (id) SELECT generate_series(1, 100);
ALTER TABLE shop.right ADD COLUMN p int;
INSERT INTO shop.right SELECT g, g, CASE g WHEN 1 THEN 999 END FROM generate_series(1, 100) g;
UPDATE shop.left SET r = id, self = 1;
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE shop.right ADD CONSTRAINT not_checked FOREIGN KEY (p) REFERENCES shop.parent NOT VALID;

CREATE TABLE shop.booking (room int, during tsrange, u int, CONSTRAINT no_overlap EXCLUDE USING gist (room WITH =, during WITH &&),
  CONSTRAINT late UNIQUE (u) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO shop.booking SELECT g, '[2020-01-01,2020-01-02)', g FROM generate_series(1, 20) g;
CREATE INDEX "expr Idx" ON shop.booking (shop.twice(room), lower(during));
CREATE INDEX partial ON shop.booking USING hash (u) WHERE u > 5;
CREATE INDEX coll ON shop.types (t COLLATE shop.plain DESC NULLS LAST, i4);
CREATE INDEX gin ON shop.types USING gin (jb jsonb_path_ops);
CREATE UNIQUE INDEX ident ON shop.dropped (a);
ALTER TABLE shop.dropped ALTER a SET NOT NULL;
ALTER TABLE shop.dropped REPLICA IDENTITY USING INDEX ident;
ALTER TABLE shop.dropped CLUSTER ON ident;
ALTER TABLE shop.nothing REPLICA IDENTITY FULL;

CREATE TABLE shop.events (id int NOT NULL, at date NOT NULL, kind text) PARTITION BY RANGE (at);
CREATE TABLE shop.events_2020 PARTITION OF shop.events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE shop.events_2021 PARTITION OF shop.events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY LIST (kind);
CREATE TABLE "Übung \Schema".events_2021_a PARTITION OF shop.events_2021 FOR VALUES IN ('a');
CREATE TABLE shop.events_2021_b PARTITION OF shop.events_2021 FOR VALUES IN ('b', NULL);
INSERT INTO shop.events SELECT g, '2020-06-01'::date + g, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 500) g;

CREATE TRIGGER plain BEFORE INSERT OR UPDATE ON shop.parent FOR EACH ROW WHEN (NEW.id > 0) EXECUTE PROCEDURE shop.touch();
CREATE TRIGGER always AFTER INSERT ON shop.parent FOR EACH ROW EXECUTE PROCEDURE shop.touch();
CREATE TRIGGER replica AFTER UPDATE ON shop.parent FOR EACH STATEMENT EXECUTE PROCEDURE shop.touch();
CREATE TRIGGER off AFTER DELETE ON shop.parent FOR EACH ROW EXECUTE PROCEDURE shop.touch();
ALTER TABLE shop.parent ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER off;
CREATE RULE log AS ON DELETE TO shop.empty DO ALSO (SELECT 1; SELECT 2);
ALTER TABLE shop.empty ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readers ON shop.empty FOR SELECT TO "Reader ""R""" USING (id > 0);
CREATE STATISTICS shop.stats (dependencies) ON i4, i8 FROM shop.types;
ALTER TABLE shop.types ALTER t SET STATISTICS 500, ALTER t SET STORAGE EXTERNAL, ALTER i4 SET (n_distinct = 5);
ALTER TABLE shop.types SET (fillfactor = 70, autovacuum_enabled = off);
"#;

const PARTITIONS_11: &str = r#"
ALTER TABLE shop.events ADD COLUMN n bigint;
CREATE TABLE shop.orders (id int NOT NULL, region text NOT NULL, parent int REFERENCES shop.parent, PRIMARY KEY (id, region))
  PARTITION BY LIST (region);
CREATE TABLE shop.orders_eu PARTITION OF shop.orders FOR VALUES IN ('eu') PARTITION BY HASH (id);
CREATE TABLE shop.orders_eu_0 PARTITION OF shop.orders_eu FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE shop.orders_eu_1 PARTITION OF shop.orders_eu FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE shop.orders_other PARTITION OF shop.orders DEFAULT;
CREATE INDEX orders_parent ON shop.orders (parent) INCLUDE (id);
CREATE INDEX only_here ON shop.orders_other (parent);
INSERT INTO shop.orders SELECT g, CASE g % 3 WHEN 0 THEN 'eu' WHEN 1 THEN 'us' ELSE 'asia' END, 1 + g % 10 FROM generate_series(1, 300) g;
"#;

const GENERATED_12: &str = r#"
CREATE TABLE shop.generated (a int, "B b" int GENERATED ALWAYS AS (shop.twice(a)) STORED, c text);
INSERT INTO shop.generated (a, c) SELECT g, 'g' FROM generate_series(1, 30) g;
CREATE TABLE shop.only_generated (k int GENERATED ALWAYS AS (42) STORED);
INSERT INTO shop.only_generated DEFAULT VALUES;
CREATE TABLE shop.order_note (id int, region text, FOREIGN KEY (id, region) REFERENCES shop.orders);
INSERT INTO shop.order_note SELECT id, region FROM shop.orders WHERE id < 50;
"#;

const SINCE_14: &str = r#"
CREATE TABLE shop.multi (id int PRIMARY KEY, m int4multirange, f shop.floatmultirange, x xid8, n numeric);
INSERT INTO shop.multi VALUES (1, '{[1,3),[5,7)}', '{[1.5,2.5)}', '123', '-Infinity'), (2, '{}', NULL, NULL, 'Infinity');
CREATE FUNCTION shop.atomic(a int, b text DEFAULT 'x;y') RETURNS int LANGUAGE sql
  BEGIN ATOMIC SELECT CASE WHEN a > 1 THEN 2 ELSE 3 END; SELECT id FROM shop.parent WHERE id = a; END;
CREATE PROCEDURE shop.work() LANGUAGE sql BEGIN ATOMIC INSERT INTO shop.empty (t) VALUES (';'); END;
"#;

const SINCE_15: &str = r#"
CREATE TABLE shop.nulls (a int, CONSTRAINT one_null UNIQUE NULLS NOT DISTINCT (a));
INSERT INTO shop.nulls VALUES (NULL), (1);
"#;

const SINCE_18: &str = r#"
CREATE TABLE shop.virtual (a int, v int GENERATED ALWAYS AS (a * 2) VIRTUAL, CONSTRAINT named NOT NULL a);
INSERT INTO shop.virtual (a) SELECT generate_series(1, 5);
"#;

const VIEWS: &str = r#"
CREATE VIEW shop.view AS SELECT id, t FROM shop.parent WHERE id > 1;
CREATE VIEW shop.needs_key AS SELECT id, t, count(*) AS n FROM shop.parent GROUP BY id;
CREATE VIEW shop.on_top AS SELECT n FROM shop.needs_key;
CREATE MATERIALIZED VIEW shop.filled AS SELECT id, t FROM shop.parent;
CREATE UNIQUE INDEX filled_key ON shop.filled (id);
CREATE MATERIALIZED VIEW shop.unfilled AS SELECT 1 AS one FROM shop.filled WITH NO DATA;
CREATE MATERIALIZED VIEW shop.late_view AS SELECT n FROM shop.needs_key;
CREATE INDEX late_n ON shop.late_view (n);
"#;

const LAST: &str = r#"
COMMENT ON TABLE shop.parent IS 'a ; comment, it''s \ long';
COMMENT ON COLUMN shop.parent.t IS 'column';
COMMENT ON INDEX shop.partial IS 'index';
COMMENT ON CONSTRAINT no_overlap ON shop.booking IS 'constraint';
COMMENT ON SCHEMA shop IS 'schema';
GRANT USAGE ON SCHEMA shop TO "Reader ""R""";
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO "Reader ""R""";
GRANT UPDATE (t) ON shop.parent TO "Reader ""R""" WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION shop.twice(int) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA shop GRANT SELECT ON TABLES TO "Reader ""R""";
ALTER TABLE shop.parent OWNER TO shop_owner;
CREATE FUNCTION shop.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER ddl ON ddl_command_start EXECUTE PROCEDURE shop.on_ddl();
"#;
