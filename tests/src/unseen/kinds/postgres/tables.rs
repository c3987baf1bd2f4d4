//! Columns, rows and whole tables.

use super::super::{Kind, harmless, major, minor};

pub const KINDS: &[Kind] = &[
    major(
        "column-reset",
        &["ALTER TABLE wide DROP COLUMN a; ALTER TABLE wide ADD COLUMN a int DEFAULT 7"],
    ),
    major("rewrite-same-type", &["ALTER TABLE wide ALTER b TYPE text USING upper(b)"]),
    major("rewrite-then-write", &[
        "ALTER TABLE wide ALTER c TYPE text USING reverse(c)",
        "UPDATE wide SET c = c || '!' WHERE id < 10",
    ]),
    major("add-volatile-uuid", &["ALTER TABLE wide ADD g uuid DEFAULT gen_random_uuid()"]).since(13),
    major("add-volatile-random", &["ALTER TABLE item ADD r float8 DEFAULT random()"]),
    major("add-volatile-clock", &["ALTER TABLE spare ADD at timestamptz DEFAULT clock_timestamp()"]),
    major("add-serial", &["ALTER TABLE spare ADD number serial"]),
    major("add-identity", &["ALTER TABLE wide ADD number int GENERATED ALWAYS AS IDENTITY"]),
    major("add-constant-default", &["ALTER TABLE wide ADD k int DEFAULT 5"]),
    major("add-nullable", &["ALTER TABLE wide ADD n text"]),
    major("add-nullable-then-write", &[
        "ALTER TABLE wide ADD n text",
        "UPDATE wide SET n = 'x' WHERE id < 50",
    ]),
    major("add-generated", &["ALTER TABLE wide ADD twice int GENERATED ALWAYS AS (id * 2) STORED"])
        .since(12),
    major("int-to-bigint", &["ALTER TABLE wide ALTER a TYPE bigint"]),
    major("numeric-scale", &["ALTER TABLE wide ALTER d TYPE numeric(8,3)"]),
    major("varchar-longer", &["ALTER TABLE item ALTER title TYPE varchar(80)"]),
    major("text-to-varchar", &["ALTER TABLE wide ALTER c TYPE varchar(100)"]),
    major("text-to-int", &["ALTER TABLE wide ALTER b TYPE int USING length(b)"]),
    major("rename-column", &["ALTER TABLE wide RENAME b TO bb"]),
    major("swap-columns", &[
        "ALTER TABLE wide RENAME b TO t; ALTER TABLE wide RENAME c TO b; ALTER TABLE wide RENAME t TO c",
    ]),
    major("drop-column", &["ALTER TABLE wide DROP COLUMN c"]),
    major("recreate-table", &[
        "DROP TABLE spare; CREATE TABLE spare (id int PRIMARY KEY, v text);
         INSERT INTO spare SELECT n, 'again' FROM generate_series(1, 40) n",
    ]),
    major("recreate-empty", &["DROP TABLE spare; CREATE TABLE spare (id int PRIMARY KEY, v text)"]),
    major("swap-table", &[
        "CREATE TABLE spare_new (LIKE spare INCLUDING ALL);
         INSERT INTO spare_new SELECT id, upper(v) FROM spare WHERE id < 90;
         DROP TABLE spare; ALTER TABLE spare_new RENAME TO spare;
         ALTER INDEX spare_new_pkey RENAME TO spare_pkey",
    ]),
    major("rename-table", &["ALTER TABLE spare RENAME TO spare_2"]),
    major("rename-and-write", &[
        "ALTER TABLE spare RENAME TO spare_2",
        "UPDATE spare_2 SET v = 'moved' WHERE id = 1",
    ]),
    major("move-schema", &["ALTER TABLE spare SET SCHEMA sales"]),
    major("drop-table", &["DROP TABLE spare"]),
    major("new-table", &["CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1), (2)"]),
    major("new-table-empty", &["CREATE TABLE late (id int PRIMARY KEY)"]),
    major("create-table-as", &["CREATE TABLE picked AS SELECT * FROM wide WHERE id < 50"]),
    major("unlogged-write", &[
        "ALTER TABLE spare SET UNLOGGED; UPDATE spare SET v = 'unlogged'; ALTER TABLE spare SET LOGGED",
    ]),
    major("unlogged-write-apart", &[
        "ALTER TABLE spare SET UNLOGGED",
        "UPDATE spare SET v = 'unlogged' WHERE id < 50",
        "ALTER TABLE spare SET LOGGED",
    ]),
    harmless("truncate", &["TRUNCATE spare"]),
    harmless("truncate-and-fill", &[
        "TRUNCATE spare",
        "INSERT INTO spare SELECT n, 'after' FROM generate_series(1, 30) n",
    ]),
    harmless("vacuum-full", &["VACUUM FULL wide"]),
    minor("cluster", &["CLUSTER wide USING wide_pkey"]),
    harmless("reindex", &["REINDEX TABLE wide"]),
    harmless("analyze", &["ANALYZE"]),
    harmless("vacuum-freeze", &["VACUUM (FREEZE) wide"]),
    harmless("two-phase", &[
        "BEGIN; UPDATE wide SET b = 'prepared' WHERE id = 7; PREPARE TRANSACTION 'unseen'",
        "COMMIT PREPARED 'unseen'",
    ]),
    harmless("rolled-back-alter", &["BEGIN; ALTER TABLE wide ADD gone int; ROLLBACK"]),
    harmless("savepoint-alter", &[
        "BEGIN; UPDATE wide SET b = 'one' WHERE id = 1; SAVEPOINT s; ALTER TABLE wide ADD gone int;
         ROLLBACK TO s; UPDATE wide SET b = 'two' WHERE id = 2; COMMIT",
    ]),
    harmless("temporary-table", &["CREATE TEMP TABLE t AS SELECT * FROM wide; DROP TABLE t"]),
    harmless("key-moved", &["UPDATE spare SET id = id + 1000 WHERE id < 50"]),
    major("identity-index", &[
        "ALTER TABLE spare ADD w int; UPDATE spare SET w = id; ALTER TABLE spare ALTER w SET NOT NULL;
         CREATE UNIQUE INDEX spare_w ON spare (w); ALTER TABLE spare REPLICA IDENTITY USING INDEX spare_w",
    ]),
    major("primary-key-replaced", &[
        "ALTER TABLE spare DROP CONSTRAINT spare_pkey; ALTER TABLE spare ADD PRIMARY KEY (id, v)",
    ]),
    major("primary-key-dropped", &["ALTER TABLE spare DROP CONSTRAINT spare_pkey"]),
    minor("replica-identity-full", &["ALTER TABLE spare REPLICA IDENTITY FULL"]),
    // Blue refuses UPDATE and DELETE from then on, so no change is missed; green goes on to take them.
    minor("replica-identity-nothing", &["ALTER TABLE keyless REPLICA IDENTITY NOTHING"]),
    minor("column-statistics", &["ALTER TABLE wide ALTER a SET STATISTICS 500"]),
    minor("column-storage", &["ALTER TABLE wide ALTER b SET STORAGE EXTERNAL"]),
    minor("fillfactor", &["ALTER TABLE wide SET (fillfactor = 70)"]),
    major("inherit", &[
        "CREATE TABLE child_2 (id int PRIMARY KEY, v text); INSERT INTO child_2 VALUES (201, 'k');
         ALTER TABLE child_2 INHERIT parent",
    ]),
    major("no-inherit", &["ALTER TABLE child NO INHERIT parent"]),
    major("large-object", &["SELECT lo_from_bytea(0, '\\x00')"]),
    major("left-out-of-publication", &[
        "ALTER PUBLICATION cutover_shop DROP TABLE wide",
        "UPDATE wide SET b = 'unpublished' WHERE id < 100",
        "ALTER PUBLICATION cutover_shop ADD TABLE wide",
    ])
    .by_administrator(),
    major("publication-without-updates", &[
        "ALTER PUBLICATION cutover_shop SET (publish = 'insert')",
        "UPDATE wide SET b = 'unpublished' WHERE id < 100",
        "ALTER PUBLICATION cutover_shop SET (publish = 'insert, update, delete, truncate')",
    ])
    .by_administrator()
    .since(11),
    major("publication-filter", &[
        "ALTER PUBLICATION cutover_shop DROP TABLE wide; ALTER PUBLICATION cutover_shop ADD TABLE wide WHERE (id > 400)",
        "UPDATE wide SET d = 1 WHERE id < 100",
    ])
    .by_administrator()
    .since(15),
];
