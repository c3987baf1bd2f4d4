//! Changes that are in no log, or that the log does not tell as they are.

use super::super::{Kind, major, minor, verified};
use crate::unseen::Engine::{Mariadb, Mysql};

pub const KINDS: &[Kind] = &[
    verified(
        "unlogged-rows",
        &["SET sql_log_bin = 0; UPDATE other SET v = 'unlogged' WHERE id < 60"],
    ),
    major("unlogged-rows-gone", &["SET sql_log_bin = 0; DELETE FROM other WHERE id < 10"]),
    major(
        "unlogged-column",
        &["SET sql_log_bin = 0; ALTER TABLE wide ADD n int", "UPDATE wide SET n = 1 WHERE id < 9"],
    ),
    major("unlogged-column-quiet", &["SET sql_log_bin = 0; ALTER TABLE other ADD n int DEFAULT 4"]),
    major("unlogged-column-dropped", &["SET sql_log_bin = 0; ALTER TABLE wide DROP COLUMN c"]),
    verified(
        "unlogged-columns-swapped",
        &["SET sql_log_bin = 0; ALTER TABLE wide RENAME COLUMN b TO c, RENAME COLUMN c TO b"],
    ),
    major(
        "unlogged-default",
        &["SET sql_log_bin = 0; ALTER TABLE orders ALTER state SET DEFAULT 'open'"],
    ),
    major(
        "unlogged-collation",
        &[
            "SET sql_log_bin = 0; ALTER TABLE label MODIFY word varchar(50) COLLATE utf8mb4_unicode_ci",
        ],
    ),
    verified(
        "unlogged-enum",
        &[
            "SET sql_log_bin = 0; ALTER TABLE customer MODIFY feeling enum('happy','ok','sad') DEFAULT 'ok'",
        ],
    ),
    major(
        "unlogged-table",
        &[
            "SET sql_log_bin = 0; CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)",
        ],
    ),
    major(
        "unlogged-table-written",
        &[
            "SET sql_log_bin = 0; CREATE TABLE late (id int PRIMARY KEY)",
            "INSERT INTO late VALUES (1)",
        ],
    ),
    major("unlogged-table-dropped", &["SET sql_log_bin = 0; DROP TABLE spare"]),
    verified(
        "unlogged-tables-swapped",
        &["SET sql_log_bin = 0; RENAME TABLE spare TO t, other TO spare, t TO other"],
    ),
    major("unlogged-truncate", &["SET sql_log_bin = 0; TRUNCATE other"]),
    verified(
        "unlogged-exchange",
        &["SET sql_log_bin = 0; ALTER TABLE measure EXCHANGE PARTITION p1 WITH TABLE measure_out"],
    ),
    major(
        "unlogged-partition",
        &[
            "SET sql_log_bin = 0; ALTER TABLE measure ADD PARTITION (PARTITION p3 VALUES LESS THAN (3000))",
        ],
    ),
    major(
        "unlogged-foreign-key",
        &["SET sql_log_bin = 0; ALTER TABLE orders DROP FOREIGN KEY orders_item"],
    ),
    major("unlogged-check", &["SET sql_log_bin = 0; ALTER TABLE wide DROP CONSTRAINT wide_d"]),
    major(
        "unlogged-auto-increment",
        &["SET sql_log_bin = 0; ALTER TABLE customer AUTO_INCREMENT = 90000"],
    ),
    minor("unlogged-index", &["SET sql_log_bin = 0; CREATE INDEX wide_b ON wide (b)"]),
    minor("unlogged-comment", &["SET sql_log_bin = 0; ALTER TABLE item COMMENT = 'other'"]),
    minor(
        "unlogged-row-format",
        &["SET sql_log_bin = 0; ALTER TABLE spare ROW_FORMAT = REDUNDANT"],
    ),
    minor(
        "unlogged-table-options",
        &[
            "SET sql_log_bin = 0; ALTER TABLE spare STATS_PERSISTENT = 0 MAX_ROWS = 5000",
            "SET sql_log_bin = 0; ALTER TABLE item KEY_BLOCK_SIZE = 8",
        ],
    ),
    minor("unlogged-file-growth", &["SET sql_log_bin = 0; ALTER TABLE spare AUTOEXTEND_SIZE = 4M"])
        .of(Mysql),
    minor(
        "unlogged-page-compression",
        &["SET sql_log_bin = 0; ALTER TABLE spare PAGE_COMPRESSED = 1"],
    )
    .of(Mariadb),
    minor(
        "unlogged-page-compression",
        &["SET sql_log_bin = 0; ALTER TABLE spare COMPRESSION = 'zlib'"],
    )
    .of(Mysql),
    minor(
        "unlogged-partition-comment",
        &["SET sql_log_bin = 0; ALTER TABLE measure REORGANIZE PARTITION p1 INTO \
             (PARTITION p1 VALUES LESS THAN (1000) COMMENT = 'low')"],
    ),
    major("unlogged-engine", &["SET sql_log_bin = 0; ALTER TABLE other ENGINE = MyISAM"]),
    major(
        "unlogged-view",
        &[
            "SET sql_log_bin = 0; CREATE OR REPLACE VIEW dear AS SELECT id, title FROM item WHERE cost > 40",
        ],
    ),
    major("unlogged-trigger", &["SET sql_log_bin = 0; DROP TRIGGER stamped"]),
    major("unlogged-procedure", &["SET sql_log_bin = 0; DROP PROCEDURE tidy"]),
    major(
        "unlogged-function",
        &[
            "SET sql_log_bin = 0; DROP FUNCTION tax; CREATE FUNCTION tax(n int) RETURNS int DETERMINISTIC RETURN n * 3",
        ],
    ),
    major(
        "unlogged-event",
        &["SET sql_log_bin = 0; ALTER EVENT yearly DO DELETE FROM item WHERE id < -1"],
    ),
    major(
        "unlogged-database",
        &[
            "SET sql_log_bin = 0; ALTER DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
        ],
    ),
    major(
        "unlogged-database-read-only",
        &["SET sql_log_bin = 0; ALTER DATABASE shop READ ONLY = 1"],
    )
    .of(Mysql),
    minor(
        "unlogged-database-encryption",
        &["SET sql_log_bin = 0; ALTER DATABASE shop ENCRYPTION = 'Y'"],
    )
    .of(Mysql),
    minor(
        "unlogged-database-comment",
        &["SET sql_log_bin = 0; ALTER DATABASE shop COMMENT 'ours'"],
    )
    .of(Mariadb),
    major(
        "unlogged-account",
        &[
            "SET sql_log_bin = 0; CREATE USER 'visitor'@'%'; GRANT SELECT ON shop.* TO 'visitor'@'%'",
        ],
    ),
    minor(
        "unlogged-password",
        &["SET sql_log_bin = 0; ALTER USER 'clerk'@'%' IDENTIFIED BY 'second'"],
    ),
    major("unlogged-grant", &["SET sql_log_bin = 0; GRANT DELETE ON shop.item TO 'clerk'@'%'"]),
];
