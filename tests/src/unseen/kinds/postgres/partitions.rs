//! Partitions.

use super::super::{Kind, harmless, major};

pub const KINDS: &[Kind] = &[
    major("partition-detached-written", &[
        "ALTER TABLE measure DETACH PARTITION measure_1",
        "UPDATE measure_1 SET v = v + 100000; DELETE FROM measure_1 WHERE at <= 50",
        "ALTER TABLE measure ATTACH PARTITION measure_1 FOR VALUES FROM (0) TO (1000)",
    ]),
    major("partition-detached-written-at-once", &[
        "ALTER TABLE measure DETACH PARTITION measure_1; UPDATE measure_1 SET v = v + 100000;
         ALTER TABLE measure ATTACH PARTITION measure_1 FOR VALUES FROM (0) TO (1000)",
    ]),
    major("partition-reloaded", &[
        "DROP TABLE measure_2; CREATE TABLE measure_2 PARTITION OF measure FOR VALUES FROM (1000) TO (2000);
         INSERT INTO measure SELECT n, 0 FROM generate_series(1000, 1400) n",
    ]),
    major("partition-attached-loaded", &[
        "CREATE TABLE measure_3 (LIKE measure INCLUDING ALL); INSERT INTO measure_3 SELECT n, n FROM generate_series(2000, 2500) n;
         ALTER TABLE measure ATTACH PARTITION measure_3 FOR VALUES FROM (2000) TO (3000)",
    ]),
    major("partition-attached-and-written", &[
        "CREATE TABLE measure_3 (LIKE measure INCLUDING ALL); INSERT INTO measure_3 SELECT n, n FROM generate_series(2000, 2500) n;
         ALTER TABLE measure ATTACH PARTITION measure_3 FOR VALUES FROM (2000) TO (3000)",
        "INSERT INTO measure VALUES (2900, 1)",
    ]),
    major("partition-new-empty", &["CREATE TABLE measure_3 PARTITION OF measure FOR VALUES FROM (2000) TO (3000)"]),
    major("partition-new-written", &[
        "CREATE TABLE measure_3 PARTITION OF measure FOR VALUES FROM (2000) TO (3000)",
        "INSERT INTO measure SELECT n, n FROM generate_series(2000, 2100) n",
    ]),
    major("partition-default-new", &["CREATE TABLE measure_rest PARTITION OF measure DEFAULT"]).since(11),
    major("partition-detached", &["ALTER TABLE measure DETACH PARTITION measure_2"]),
    major("partition-detached-concurrently", &["ALTER TABLE measure DETACH PARTITION measure_2 CONCURRENTLY"])
        .since(14),
    major("partition-dropped", &["DROP TABLE measure_2"]),
    major("partition-detached-dropped", &[
        "ALTER TABLE measure DETACH PARTITION measure_2",
        "DROP TABLE measure_2",
    ]),
    major("partition-bounds-moved", &[
        "ALTER TABLE measure DETACH PARTITION measure_2;
         ALTER TABLE measure ATTACH PARTITION measure_2 FOR VALUES FROM (1000) TO (2500)",
    ]),
    major("partition-renamed", &["ALTER TABLE measure_2 RENAME TO measure_old"]),
    harmless("partition-row-moved", &["UPDATE measure SET at = at + 1000 WHERE at < 1; DELETE FROM measure WHERE at = 5"]),
    harmless("partition-truncated", &["TRUNCATE measure_1"]),
];
