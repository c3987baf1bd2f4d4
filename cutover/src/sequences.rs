//! Sequences: logical replication does not carry them, so they are taken over in the pause.
//!
//! Every kind counts (owned, free-standing, identity), whatever its increment. Green gets exactly
//! blue's `last_value` and `is_called`, so that the next value is the one blue would have given.
//!
//! Right before clients are held, all of them are carried ahead. In the pause both sides are read at
//! once, beside the drain, and only those that moved meanwhile are set, and read back. What grows with
//! their number is this reading, some 10 us each.
//!
//! Reading and setting a sequence locks it until the transaction ends, and a server of stock settings
//! has room for some thousand locks. So each statement is a transaction of its own and names at most
//! [`CHUNK`] sequences. `setval` is never rolled back (manual, 9.17), so one transaction for all of
//! them would promise nothing more.
//!
//! A sequence that belongs to an extension is the extension's matter: where green has it, it is
//! taken over; where green lacks it (another version of the extension, or none), it is left out.

mod mysql;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::{Act, Check};
use crate::ports::{PortError, PortResult, SequenceReport, Sequences};
use crate::read_only;
use crate::side::Direction;
use crate::sql::{Kind, Slot, Sql, SqlError, literal, soon};
use standing::{CHUNK, LIST, Value};

pub use mysql::MysqlSequences;

/// Sessions of ours other than this one.
const END_OTHERS: &str = "SELECT pid, pg_catalog.pg_terminate_backend(pid) \
     FROM pg_catalog.pg_stat_activity WHERE application_name = 'cutover sequences' \
     AND pid <> pg_catalog.pg_backend_pid() AND datname = pg_catalog.current_database() \
     AND usename = current_user";
/// Between two looks whether they are gone.
const END_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Definition {
    step: String,
    low: String,
    high: String,
    cycles: bool,
    readable: bool,
    settable: bool,
    of_extension: bool,
}

/// The sequences of two PostgreSQL databases, in one direction.
pub struct PostgresSequences {
    source: Slot,
    target: Slot,
    from: &'static str,
    to: &'static str,
}

impl PostgresSequences {
    /// Ends other sessions of ours that set sequences on the target, and waits until they are gone.
    ///
    /// What an earlier run sent over a connection that hung may still arrive. Carried out after the
    /// target has opened, it would set the sequences back, and clients would be given keys again
    /// that are taken. A session that is gone executes nothing.
    async fn end_others(&self, target: &Sql, deadline: Instant) -> PortResult<()> {
        let failed = |error: SqlError| error.at(self.to, "ending earlier sessions of ours");
        loop {
            let rows = target.rows(END_OTHERS, deadline).await.map_err(failed)?;
            if rows.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(PortError::new(
                    self.to,
                    "an earlier session of ours does not end, and what it sent may set sequences back",
                )
                .remedy("end the sessions with application_name 'cutover sequences'"));
            }
            tokio::time::sleep(END_PAUSE).await;
        }
    }

    /// Sets every sequence of the target that does not stand where the source's stands, and reads those
    /// back.
    async fn carry(&self, deadline: Instant) -> PortResult<SequenceReport> {
        let source = self.source.get(deadline).await?;
        let target = self.target.get(deadline).await?;
        let stand = async |sql: &Sql, place| {
            let listed = standing::list(sql, place, deadline).await?;
            let values = standing::read(sql, place, &listed, deadline).await?;
            Ok::<_, PortError>((listed, values))
        };
        let ((_, wanted), (listed, mut there)) =
            tokio::try_join!(stand(&source, self.from), stand(&target, self.to))?;
        let moved: Vec<_> = wanted
            .iter()
            .filter(|(name, value)| !there.get(*name).is_some_and(|there| there.is_at(value)))
            .collect();
        for chunk in moved.chunks(CHUNK) {
            let statement = in_a_transaction(&set_sql(chunk.iter().copied()));
            if let Err(error) = target.run(&statement, deadline).await {
                // The session may be inside a failed transaction.
                self.target.close().await;
                return Err(error.at(self.to, "setting sequences"));
            }
        }
        let set: BTreeSet<_> = moved.iter().map(|(name, _)| *name).collect();
        let again: Vec<_> = listed.into_iter().filter(|one| set.contains(&one.name)).collect();
        there.extend(standing::read(&target, self.to, &again, deadline).await?);
        let mut count = 0;
        for (name, value) in &wanted {
            let stands = there.get(name);
            if stands.is_none() && value.of_extension {
                continue;
            }
            count += 1;
            if !stands.is_some_and(|stands| stands.is_at(value)) {
                let (from, to) = (self.from, self.to);
                return Err(PortError::new(
                    to,
                    format!(
                        "sequence {name} does not stand where {from}'s stands after it was set"
                    ),
                )
                .remedy(format!("something writes to {to}: find it")));
            }
        }
        Ok(SequenceReport { count })
    }

    /// From `source` to `target`.
    pub fn new(source: ConnInfo, target: ConnInfo, direction: Direction) -> Self {
        let (from, to) = (direction.from().name(), direction.to().name());
        Self {
            source: Slot::new(source, "cutover sequences", from, Kind::Server),
            target: Slot::new(target, "cutover sequences", to, Kind::Server),
            from,
            to,
        }
    }
}

async fn definitions(sql: &Sql, place: &str) -> PortResult<BTreeMap<QualifiedName, Definition>> {
    let rows = sql.rows(LIST, soon()).await.map_err(|e| e.at(place, "listing sequences"))?;
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .filter_map(|row| {
            let name = QualifiedName::new(row.get("schema")?, row.get("name")?);
            let definition = Definition {
                step: text(row.get("step")),
                low: text(row.get("low")),
                high: text(row.get("high")),
                cycles: row.is_true("cycles"),
                readable: row.is_true("readable"),
                settable: row.is_true("settable"),
                of_extension: row.is_true("of_extension"),
            };
            Some((name, definition))
        })
        .collect())
}

/// One statement that sets many sequences. `setval` of a NULL sequence does nothing: an
/// extension's sequence may be missing.
fn set_sql<'a>(chunk: impl Iterator<Item = (&'a QualifiedName, &'a Value)>) -> String {
    let rows: Vec<_> = chunk
        .map(|(name, value)| {
            let name = literal(&name.to_string());
            let Value { last, called, of_extension } = value;
            format!("({name}, {last}::bigint, {called}, {of_extension})")
        })
        .collect();
    set_sql_of(&rows.join(", "))
}

fn set_sql_of(values: &str) -> String {
    format!(
        "SELECT count(pg_catalog.setval(CASE WHEN v.optional THEN to_regclass(v.name) \
         ELSE v.name::regclass END, v.last, v.called)) \
         FROM (VALUES {values}) AS v(name, last, called, optional)"
    )
}

/// The target may be read-only by default.
fn in_a_transaction(statement: &str) -> String {
    format!("BEGIN READ WRITE; SET LOCAL synchronous_commit = on; {statement}; COMMIT")
}

impl Sequences for PostgresSequences {
    async fn inspect(&self, sealed: bool) -> PortResult<Vec<Check>> {
        let (from, to) = (self.from, self.to);
        let source = self.source.get(soon()).await?;
        let target = self.target.get(soon()).await?;
        self.end_others(&target, soon()).await?;
        let wanted = definitions(&source, from).await?;
        let there = definitions(&target, to).await?;
        let mut checks = Vec::new();
        let names = |names: Vec<&QualifiedName>| {
            names.iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let lacks = |name: &QualifiedName| !there.contains_key(name);
        let missing: Vec<_> = wanted
            .iter()
            .filter(|(name, d)| lacks(name) && !d.of_extension)
            .map(|(name, _)| name)
            .collect();
        if !missing.is_empty() {
            checks.push(Check::fail(
                "sequences-missing",
                format!("{to} lacks {} sequences: {}", missing.len(), names(missing)),
                format!("create them on {to} as they are on {from}"),
            ));
        }
        let unreadable: Vec<_> = wanted
            .iter()
            .filter(|(name, d)| !(d.readable || (d.of_extension && lacks(name))))
            .map(|(name, _)| name)
            .collect();
        if !unreadable.is_empty() {
            checks.push(Check::fail(
                "sequences-readable",
                format!("our role can't read {} on {from}", names(unreadable)),
                format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA .. on {from}"),
            ));
        }
        let unsettable: Vec<_> = there
            .iter()
            .filter(|(name, d)| !(d.settable && d.readable) && wanted.contains_key(name))
            .map(|(name, _)| name)
            .collect();
        if !unsettable.is_empty() {
            checks.push(Check::fail(
                "sequences-settable",
                format!("our role can't set {} on {to}", names(unsettable)),
                format!("GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA .. on {to}"),
            ));
        }
        let shape = |d: &Definition| (d.step.clone(), d.low.clone(), d.high.clone(), d.cycles);
        let differ: Vec<_> = wanted
            .iter()
            .filter(|(name, d)| there.get(name).is_some_and(|other| shape(other) != shape(d)))
            .map(|(name, _)| name)
            .collect();
        if !differ.is_empty() {
            checks.push(Check::warn(
                "sequences-differ",
                format!("increment, bounds or CYCLE differ on {to}: {}", names(differ)),
                format!("ALTER SEQUENCE on {to}"),
            ));
        }
        checks.extend(read_only::inspect((&source, from), (&target, to), sealed).await?);
        if checks.is_empty() {
            checks.push(Check::ok("sequences", format!("{} sequences", wanted.len())));
        }
        Ok(checks)
    }

    async fn carry_ahead(&self, deadline: Instant) -> PortResult<SequenceReport> {
        let target = self.target.get(deadline).await?;
        // A try before this one may have been given up while its statement was on its way.
        self.end_others(&target, deadline).await?;
        self.carry(deadline).await
    }

    async fn copy(&self, deadline: Instant) -> PortResult<SequenceReport> {
        self.carry(deadline).await
    }

    async fn leave(&self) {
        self.source.close().await;
    }

    /// Rows that are applied bring their values with them, and call no sequence; TRUNCATE restarts none
    /// (`sinks::plan::truncate`). (A trigger of the target that fires ALWAYS may call one: the read-back finds
    /// it, or the sequence gives out a later value.)
    fn is_beside_rows(&self) -> bool {
        true
    }

    fn describe(&self) -> Vec<Act> {
        let act = |place: &str, text: &str| Act {
            step: "sync".into(),
            place: place.into(),
            text: text.into(),
        };
        let reading = standing::describe();
        let places = [self.from, self.to];
        let mut acts: Vec<_> =
            places.iter().flat_map(|place| reading.iter().map(|text| act(place, text))).collect();
        let values = format!("..{}'s values, where {}'s are others..", self.from, self.to);
        acts.push(act(self.to, &in_a_transaction(&set_sql_of(&values))));
        acts
    }
}
