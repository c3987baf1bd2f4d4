//! Partitions.

use super::super::{Kind, major};
use crate::unseen::Engine::Mariadb;

pub const KINDS: &[Kind] = &[
    major("partition-new", &["ALTER TABLE measure ADD PARTITION (PARTITION p3 VALUES LESS THAN (3000))"]),
    major("partition-new-written", &[
        "ALTER TABLE measure ADD PARTITION (PARTITION p3 VALUES LESS THAN (3000))",
        "INSERT INTO measure VALUES (2500, 1), (2501, 2)",
    ]),
    major("partition-dropped", &["ALTER TABLE measure DROP PARTITION p1"]),
    major("partition-truncated", &["ALTER TABLE measure TRUNCATE PARTITION p1"]),
    major("partition-exchanged", &["ALTER TABLE measure EXCHANGE PARTITION p1 WITH TABLE measure_out"]),
    major("partition-exchanged-and-written", &[
        "ALTER TABLE measure EXCHANGE PARTITION p1 WITH TABLE measure_out",
        "UPDATE measure_out SET v = v + 1000; UPDATE measure SET v = v + 7 WHERE at < 500",
        "ALTER TABLE measure EXCHANGE PARTITION p1 WITH TABLE measure_out",
    ]),
    major("partition-exchanged-unvalidated", &[
        "ALTER TABLE measure EXCHANGE PARTITION p2 WITH TABLE measure_out WITHOUT VALIDATION",
    ]),
    major("partitions-reorganized", &[
        "ALTER TABLE measure REORGANIZE PARTITION p2 INTO (PARTITION p2 VALUES LESS THAN (1500), PARTITION p2b VALUES LESS THAN (2000))",
    ]),
    major("partitions-rebuilt", &["ALTER TABLE measure REBUILD PARTITION p1"]),
    major("partitioning-removed", &["ALTER TABLE measure REMOVE PARTITIONING"]),
    major("partitioned-by-hash", &["ALTER TABLE other PARTITION BY HASH (id) PARTITIONS 4"]),
    major("partition-to-table", &["ALTER TABLE measure CONVERT PARTITION p2 TO TABLE measure_2"]).of(Mariadb),
    major("partition-from-table", &[
        "CREATE TABLE measure_3 (at int PRIMARY KEY, v int); INSERT INTO measure_3 VALUES (2100, 1), (2200, 2)",
        "ALTER TABLE measure CONVERT TABLE measure_3 TO PARTITION p3 VALUES LESS THAN (3000)",
    ])
    .of(Mariadb),
];
