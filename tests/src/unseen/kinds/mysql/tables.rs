//! Columns, rows and whole tables.

use super::super::{Kind, harmless, major, minor};
use crate::unseen::Engine::{Mariadb, Mysql};

pub const KINDS: &[Kind] = &[
    major("column-new", &["ALTER TABLE wide ADD n varchar(20)"]),
    major(
        "column-new-then-write",
        &["ALTER TABLE wide ADD n varchar(20)", "UPDATE wide SET n = 'x' WHERE id < 50"],
    ),
    major("column-new-default", &["ALTER TABLE wide ADD k int NOT NULL DEFAULT 5"]),
    major(
        "column-new-first",
        &["ALTER TABLE wide ADD f int FIRST", "UPDATE wide SET f = 2 WHERE id < 9"],
    ),
    major("column-new-uuid", &["ALTER TABLE wide ADD g varchar(36) DEFAULT (uuid())"]),
    major("column-new-random", &["ALTER TABLE item ADD r int DEFAULT (floor(rand() * 1000))"]),
    major(
        "column-new-clock",
        &["ALTER TABLE spare ADD made timestamp(6) DEFAULT current_timestamp(6)"],
    ),
    major("column-new-serial", &["ALTER TABLE keyless ADD number int AUTO_INCREMENT PRIMARY KEY"]),
    major(
        "column-new-virtual",
        &["ALTER TABLE wide ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL"],
    ),
    major(
        "column-new-stored",
        &["ALTER TABLE wide ADD twice int GENERATED ALWAYS AS (id * 2) STORED"],
    ),
    major("column-new-invisible", &["ALTER TABLE wide ADD h int INVISIBLE DEFAULT 3"]),
    major(
        "column-reset",
        &["ALTER TABLE wide DROP COLUMN c, ADD COLUMN c varchar(100) DEFAULT 'again'"],
    ),
    major("column-dropped", &["ALTER TABLE wide DROP COLUMN c"]),
    major("column-renamed", &["ALTER TABLE wide RENAME COLUMN b TO bb"]),
    major("columns-swapped", &["ALTER TABLE wide RENAME COLUMN b TO c, RENAME COLUMN c TO b"]),
    major(
        "column-moved",
        &[
            "ALTER TABLE wide MODIFY c varchar(100) FIRST",
            "UPDATE wide SET c = 'first' WHERE id < 9",
        ],
    ),
    major("int-to-bigint", &["ALTER TABLE wide MODIFY a bigint"]),
    major("int-to-unsigned", &["ALTER TABLE wide MODIFY a int unsigned"]),
    major("int-to-text", &["ALTER TABLE item MODIFY qty varchar(20) DEFAULT '0'"]),
    major("decimal-scale", &["ALTER TABLE wide MODIFY d decimal(8,3)"]),
    major("decimal-rounded", &["ALTER TABLE wide MODIFY d decimal(5,0)"]),
    major("varchar-longer", &["ALTER TABLE item MODIFY title varchar(80)"]),
    major("varchar-shorter", &["ALTER TABLE wide MODIFY b varchar(90)"]),
    major(
        "timestamp-precision",
        &["ALTER TABLE customer MODIFY seen timestamp DEFAULT current_timestamp"],
    ),
    major(
        "enum-label-new",
        &["ALTER TABLE customer MODIFY feeling enum('sad','ok','happy','glad') DEFAULT 'ok'"],
    ),
    major(
        "enum-labels-swapped",
        &["ALTER TABLE customer MODIFY feeling enum('happy','ok','sad') DEFAULT 'ok'"],
    ),
    major("not-null", &["ALTER TABLE wide MODIFY a int NOT NULL"]),
    major("default-changed", &["ALTER TABLE orders ALTER state SET DEFAULT 'open'"]),
    major("default-dropped", &["ALTER TABLE orders ALTER state DROP DEFAULT"]),
    major(
        "column-charset",
        &["ALTER TABLE wide MODIFY b varchar(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"],
    ),
    major(
        "column-collation",
        &["ALTER TABLE label MODIFY word varchar(50) COLLATE utf8mb4_unicode_ci"],
    ),
    major(
        "table-converted",
        &["ALTER TABLE spare CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"],
    ),
    major(
        "table-charset",
        &["ALTER TABLE spare DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"],
    ),
    major("auto-increment-moved", &["ALTER TABLE customer AUTO_INCREMENT = 90000"]),
    major("auto-increment-dropped", &["ALTER TABLE counted MODIFY id int NOT NULL"]),
    major(
        "engine-changed",
        &["ALTER TABLE spare ENGINE = MyISAM", "UPDATE spare SET v = 'loose' WHERE id < 9"],
    ),
    major("table-rebuilt", &["ALTER TABLE wide ENGINE = InnoDB"]),
    major("table-ordered", &["ALTER TABLE keyless ORDER BY y DESC"]),
    major(
        "system-versioned",
        &["ALTER TABLE spare ADD SYSTEM VERSIONING", "UPDATE spare SET v = 'kept' WHERE id < 9"],
    )
    .of(Mariadb),
    minor("row-format", &["ALTER TABLE spare ROW_FORMAT = REDUNDANT"]),
    minor("comment-table", &["ALTER TABLE item COMMENT = 'other'"]),
    minor("comment-column", &["ALTER TABLE wide MODIFY c varchar(100) COMMENT 'a text'"]),
    major("table-renamed", &["RENAME TABLE spare TO spare_2"]),
    major(
        "table-renamed-and-written",
        &["RENAME TABLE spare TO spare_2", "UPDATE spare_2 SET v = 'moved' WHERE id = 1"],
    ),
    major("tables-swapped", &["RENAME TABLE spare TO t, other TO spare, t TO other"]),
    major(
        "table-swapped-for-copy",
        &[
            "CREATE TABLE spare_new LIKE spare; INSERT INTO spare_new SELECT id, upper(v) FROM spare WHERE id < 90",
            "RENAME TABLE spare TO spare_old, spare_new TO spare; DROP TABLE spare_old",
        ],
    ),
    major("table-dropped", &["DROP TABLE spare"]),
    major(
        "table-recreated",
        &[
            "DROP TABLE spare; CREATE TABLE spare (id int PRIMARY KEY, v varchar(100))",
            "INSERT INTO spare VALUES (1, 'again'), (2, 'again')",
        ],
    ),
    major(
        "table-recreated-otherwise",
        &[
            "DROP TABLE spare; CREATE TABLE spare (id int PRIMARY KEY, w int, v varchar(100))",
            "INSERT INTO spare VALUES (1, 7, 'again')",
        ],
    ),
    major(
        "table-replaced",
        &["CREATE OR REPLACE TABLE spare (id int PRIMARY KEY, v varchar(100))"],
    )
    .of(Mariadb),
    major(
        "table-new",
        &["CREATE TABLE late (id int PRIMARY KEY)", "INSERT INTO late VALUES (1), (2)"],
    ),
    major("table-new-empty", &["CREATE TABLE late (id int PRIMARY KEY)"]),
    major(
        "table-new-like",
        &["CREATE TABLE late LIKE wide", "INSERT INTO late (id, a) VALUES (1, 1)"],
    ),
    major(
        "table-new-charset",
        &["CREATE TABLE late (id int PRIMARY KEY, v varchar(9)) DEFAULT CHARSET utf8mb4"],
    ),
    major("table-new-default-charset", &["CREATE TABLE late (id int PRIMARY KEY, v varchar(9))"]),
    major("table-from-select", &["CREATE TABLE picked AS SELECT * FROM wide WHERE id < 50"]),
    major(
        "table-new-of-myisam",
        &["CREATE TABLE late (id int PRIMARY KEY) ENGINE = MyISAM", "INSERT INTO late VALUES (1)"],
    ),
    major("primary-key-replaced", &["ALTER TABLE spare DROP PRIMARY KEY, ADD PRIMARY KEY (id, v)"]),
    major(
        "primary-key-dropped",
        &["ALTER TABLE spare DROP PRIMARY KEY", "UPDATE spare SET v = 'loose' WHERE id < 9"],
    ),
    major(
        "rows-by-statement",
        &["SET SESSION binlog_format = 'STATEMENT'; UPDATE wide SET b = 'stated' WHERE id < 100"],
    ),
    major(
        "rows-in-part",
        &["SET SESSION binlog_row_image = 'MINIMAL'; UPDATE wide SET b = 'part' WHERE id < 100"],
    ),
    major(
        "zero-dates",
        &["SET sql_mode = ''; UPDATE customer SET born = '0000-00-00' WHERE id < 9"],
    ),
    harmless("rows-without-checks", &["SET foreign_key_checks = 0; DELETE FROM item WHERE id = 3"]),
    harmless("truncate", &["TRUNCATE other"]),
    harmless(
        "truncate-and-fill",
        &["TRUNCATE other", "INSERT INTO other SELECT id, 'after' FROM item"],
    ),
    harmless("analyze", &["ANALYZE TABLE wide"]),
    harmless("optimize", &["OPTIMIZE TABLE wide"]),
    harmless("flush", &["FLUSH TABLES; FLUSH LOGS"]),
    harmless(
        "temporary-table",
        &[
            "CREATE TEMPORARY TABLE t AS SELECT * FROM wide; UPDATE t SET a = 1; DROP TEMPORARY TABLE t",
        ],
    ),
    harmless("key-moved", &["UPDATE other SET id = id + 1000 WHERE id < 50"]),
    harmless("rows-replaced", &["REPLACE INTO other VALUES (1, 'replaced'), (2000, 'new')"]),
    harmless(
        "rolled-back",
        &[
            "BEGIN; UPDATE wide SET b = 'gone'; SAVEPOINT s; DELETE FROM wide WHERE id < 9; ROLLBACK TO s; ROLLBACK",
        ],
    ),
    harmless(
        "two-phase",
        &[
            "XA START 'unseen'; UPDATE other SET v = 'prepared' WHERE id = 7; XA END 'unseen'; XA PREPARE 'unseen'; XA COMMIT 'unseen'",
        ],
    ),
    major(
        "column-instant-position",
        &[
            "ALTER TABLE wide ADD i int AFTER id, ALGORITHM = INSTANT",
            "UPDATE wide SET i = 1 WHERE id < 9",
        ],
    )
    .of(Mysql),
];
