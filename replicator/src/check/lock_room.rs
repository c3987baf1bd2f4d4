//! Family: room for locks, in the one table that all sessions of a server share.
//!
//! What we do by ourselves takes as many transactions as it needs: the schema is restored, the publication made and
//! the tables emptied in pieces that fit. Two things can't be divided. pg_dump locks every table of blue in
//! one transaction, to its end. And a statement about a partitioned table locks all of its partitions.

use std::collections::BTreeMap;

use decoders::postgres::catalog::{ServerInfo, TableInfo};

use super::finding::{Finding, Fix, Side};

/// A server's lock table.
struct LockTable {
    /// `max_locks_per_transaction`.
    per: i64,
    /// Locks that there is room for whatever was locked before.
    certain: i64,
    /// Locks of one session that there is room for at best: memory that was once used to hold one lock by
    /// several sessions is not given back.
    ///
    /// Measured with stock settings after a start: 11,895 on PostgreSQL 10, 12,839 on 15 and 14,967 on
    /// 18; after two pg_dumps had locked 10,000 tables at the same time: 9,209, 10,727 and 11,895. A server with certain room for 480 took 744.
    at_best: i64,
}

impl LockTable {
    /// `None` if the settings can't be seen.
    fn of(server: &ServerInfo) -> Option<Self> {
        let number = |name| server.number(name);
        let per = number("max_locks_per_transaction")?;
        // Newer servers have more kinds of processes, and older ones count senders among connections.
        let vacuum = number("autovacuum_worker_slots").or(number("autovacuum_max_workers"));
        let senders = if server.version_num >= 120_000 { number("max_wal_senders") } else { None };
        let processes = number("max_connections")?
            + number("max_prepared_transactions")?
            + number("max_worker_processes").unwrap_or(0)
            + vacuum.map_or(0, |workers| workers + 1)
            + senders.unwrap_or(0);
        let certain = per.checked_mul(processes)?;
        Some(Self { per, certain, at_best: certain.checked_mul(8)? / 5 })
    }

    /// What `max_locks_per_transaction` has to be so that `wanted` locks are no strain.
    fn raised(&self, wanted: i64) -> String {
        let processes = (self.certain / self.per.max(1)).max(1);
        (wanted * 2 / processes + 1).max(self.per * 2).to_string()
    }
}

/// Whether pg_dump finds room on blue. It is run only where the schema is copied.
pub(super) fn blue(server: &ServerInfo, tables: &[TableInfo]) -> Option<Finding> {
    let room = LockTable::of(server)?;
    let wanted = i64::try_from(tables.len()).ok()?;
    // Others need locks at the same time.
    if wanted <= room.certain / 10 * 8 {
        return None;
    }
    let is_too_small = wanted > room.at_best / 10 * 9;
    let evidence = match is_too_small {
        true => format!("{wanted} tables, room for about {} locks at best", room.at_best),
        false => format!(
            "{wanted} tables; certain room for {} locks, about {} at best",
            room.certain, room.at_best
        ),
    };
    let finding = match is_too_small {
        true => Finding::blocker(
            "lock-room",
            Side::Blue,
            "the lock table is too small for pg_dump, which locks every table while it reads the schema",
        )
        .acceptable(),
        false => Finding::warning(
            "lock-room",
            Side::Blue,
            "pg_dump locks every table for some seconds and fills most of the lock table: statements of \
             others that need many locks may fail with \"out of shared memory\" then, and so may pg_dump",
        ),
    };
    let raise = room.raised(wanted);
    let fix = Fix::setting_and_restart(Side::Blue, "max_locks_per_transaction", &raise);
    Some(finding.evidence(evidence).fix(fix))
}

/// Whether green has room for a statement about the partitioned table of blue with the most partitions.
pub(super) fn green(server: &ServerInfo, tables: &[TableInfo]) -> Option<Finding> {
    /// A foreign key locks each partition, its index and what it refers to.
    const LOCKS_PER_PARTITION: i64 = 4;
    let room = LockTable::of(server)?;
    let (root, partitions) = largest(tables)?;
    let wanted = partitions.checked_mul(LOCKS_PER_PARTITION)?;
    if wanted <= room.certain / 10 * 8 {
        return None;
    }
    let raise = room.raised(wanted);
    let summary = "the lock table is small for the partitions of one table: a statement about it may run out of it";
    Some(
        Finding::warning("lock-room", Side::Green, summary)
            .evidence(format!(
                "{} has {partitions} partitions, which need about {wanted} locks; certain room for {}",
                root.name, room.certain
            ))
            .fix(Fix::setting_and_restart(Side::Green, "max_locks_per_transaction", &raise)),
    )
}

/// The partitioned table with the most partitions, of any depth, and their number.
fn largest(tables: &[TableInfo]) -> Option<(&TableInfo, i64)> {
    let by_oid: BTreeMap<u32, &TableInfo> = tables.iter().map(|table| (table.oid, table)).collect();
    let parent = |table: &TableInfo| by_oid.get(&table.partition_of?).copied();
    let mut partitions: BTreeMap<u32, i64> = BTreeMap::new();
    for table in tables {
        let mut top = table;
        while let Some(above) = parent(top) {
            top = above;
        }
        if top.oid != table.oid {
            *partitions.entry(top.oid).or_default() += 1;
        }
    }
    let (oid, count) = partitions.into_iter().max_by_key(|(_, count)| *count)?;
    Some((by_oid.get(&oid)?, count))
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity::Full;
    use decoders::postgres::catalog::Setting;

    use super::super::finding::Severity;
    use super::super::fixture::table;
    use super::*;

    /// Settings as initdb leaves them.
    fn stock(version_num: u32) -> ServerInfo {
        let mut server = ServerInfo { version_num, ..ServerInfo::default() };
        let slots = (version_num >= 180_000).then_some(("autovacuum_worker_slots", "16"));
        let settings = [
            ("max_locks_per_transaction", "64"),
            ("max_connections", "100"),
            ("max_prepared_transactions", "0"),
            ("max_worker_processes", "8"),
            ("max_wal_senders", "10"),
            ("autovacuum_max_workers", "3"),
        ];
        for (name, value) in settings.into_iter().chain(slots) {
            let setting = Setting { value: value.into(), unit: None };
            server.settings.insert(name.into(), setting);
        }
        server
    }

    #[test]
    fn what_is_estimated_is_what_was_measured() {
        for (version_num, at_best) in [(100_023, 11_895), (150_018, 12_839), (180_006, 14_967)] {
            let room = LockTable::of(&stock(version_num)).unwrap();
            assert!(room.at_best <= at_best, "{version_num}: {}", room.at_best);
            assert!(room.at_best > at_best / 10 * 9, "{version_num}: {}", room.at_best);
        }
    }

    #[test]
    fn ten_thousand_tables_are_a_warning_with_stock_settings() {
        let severity = |version_num, tables: usize| {
            let tables = vec![table("t", Full, vec![]); tables];
            blue(&stock(version_num), &tables).map(|finding| finding.severity)
        };
        for version_num in [100_023, 150_018, 180_006] {
            assert_eq!(severity(version_num, 5_000), None);
            assert_eq!(severity(version_num, 10_000), Some(Severity::Warning));
            assert_eq!(severity(version_num, 13_500), Some(Severity::Blocker));
        }
    }

    #[test]
    fn green_needs_room_for_the_partitions_of_one_table_only() {
        let tables = |partitions: u32, others: u32| {
            let mut all = vec![table("root", Full, vec![])];
            all[0].oid = 1;
            for at in 0..partitions + others {
                let mut one = table("t", Full, vec![]);
                one.oid = 2 + at;
                // Every second one a level further down.
                let below = if at % 2 == 1 { 1 + at } else { 1 };
                one.partition_of = (at < partitions).then_some(below);
                all.push(one);
            }
            all
        };
        let found = |partitions, others| green(&stock(150_018), &tables(partitions, others));
        assert!(found(0, 10_000).is_none());
        assert!(found(1_500, 8_500).is_none());
        let finding = found(2_000, 0).unwrap();
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.evidence.contains("2000 partitions"));
    }
}
