//! The counters of MySQL and MariaDB: AUTO_INCREMENT of tables, and MariaDB's sequences.
//!
//! A binlog does not carry them: values that a failed or deleted insert has used up are nowhere in it,
//! and a target whose counter stands lower would give them out again. So the target's are raised to
//! where the source's stand, and never lowered: one that stands higher has seen a row that the source
//! had once, or was used by somebody, and gives no value twice either.
//!
//! Nothing of it goes to the target's binlog: it has no rows for the way back, which stops at statements
//! that alter a table.
//!
//! A sequence of MariaDB takes values in advance (CACHE); what its server has in memory is lost in the
//! closing, and the target begins behind it.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::mysql::catalog::Rights;
use decoders::mysql::server::identifier;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::api::{Act, Check};
use crate::ghosts;
use crate::ports::{PortError, PortResult, SequenceReport, Sequences};
use crate::side::Direction;
use crate::sql::mysql::{
    LOCK_WAIT_TIMEOUT, MysqlError, MysqlSession, MysqlSlot, ServerUrl, UNLOGGED, literal,
};
use crate::sql::soon;
use crate::stored;

/// Sequences in one statement.
const CHUNK: usize = 500;
/// Who has this lock of the target's sets its counters, with the database behind it: other pipelines
/// may move others at the same time.
const LOCK: &str = "cutover sequences";
/// A lock's name has so many characters at most (`NAME_LEN`).
const LOCK_CHARS_MAX: usize = 64;
/// The counters as they are, and not as they were when somebody last looked (MySQL 8.0 and later).
const FRESH: &str = "SET SESSION information_schema_stats_expiry = 0";
const ABOUT: &str = "SELECT @@version LIKE '%MariaDB%' AS is_mariadb, @@read_only AS read_only, \
     @@GLOBAL.auto_increment_increment AS step, @@GLOBAL.auto_increment_offset AS first";
/// Who has a transaction open: it keeps the tables that it has read from being altered.
const OPEN: &str = "SELECT trx_mysql_thread_id AS id, trx_started AS since \
     FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> connection_id() LIMIT 5";
/// The same where `innodb_trx` can't be read because of the texts of statements in it (MySQL).
const OPEN_UNTOLD: &str = "SELECT t.processlist_id AS id, \
     now() - INTERVAL coalesce(e.timer_wait DIV 1000000000000, 0) SECOND AS since \
     FROM performance_schema.events_transactions_current e \
     JOIN performance_schema.threads t ON t.thread_id = e.thread_id \
     WHERE e.state = 'ACTIVE' AND t.processlist_id <> connection_id() LIMIT 5";

/// A sequence of MariaDB.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    /// The value behind all that were given out or taken in advance.
    next: i128,
    step: i128,
    low: i128,
    high: i128,
    cycles: bool,
    /// How often it has begun anew.
    round: i128,
}

impl Value {
    fn goes_down(&self) -> bool {
        self.step < 0
    }

    /// It has given out its last value.
    fn is_exhausted(&self) -> bool {
        if self.goes_down() { self.next < self.low } else { self.next > self.high }
    }

    /// Whether it gives out no value that `other` has given out.
    fn is_at(&self, other: &Value) -> bool {
        if self.round != other.round {
            return self.round > other.round;
        }
        if other.goes_down() { self.next <= other.next } else { self.next >= other.next }
    }

    fn shape(&self) -> (i128, i128, i128, bool) {
        (self.step, self.low, self.high, self.cycles)
    }
}

/// All counters of a server.
#[derive(Debug, Default)]
struct Counters {
    /// The next AUTO_INCREMENT value of each table.
    tables: BTreeMap<QualifiedName, u64>,
    sequences: BTreeMap<QualifiedName, Value>,
}

/// The counters of two servers of the MySQL family, in one direction.
pub struct MysqlSequences {
    source: MysqlSlot,
    target: MysqlSlot,
    /// The database that is moved; none: all of them.
    database: Option<String>,
    from: &'static str,
    to: &'static str,
}

fn quoted(name: &QualifiedName) -> String {
    format!("{}.{}", identifier(&name.schema), identifier(&name.name))
}

impl MysqlSequences {
    /// From `source` to `target`; of one database, if the source's URL names one.
    pub fn new(source: ServerUrl, target: ServerUrl, direction: Direction) -> Self {
        let (from, to) = (direction.from().name(), direction.to().name());
        Self {
            database: source.database().map(str::to_owned),
            source: MysqlSlot::new(source, from),
            target: MysqlSlot::new(target, to),
            from,
            to,
        }
    }

    fn lock(&self) -> String {
        let name = format!("{LOCK} {}", self.database.as_deref().unwrap_or("*"));
        if name.chars().count() <= LOCK_CHARS_MAX {
            return name;
        }
        // Long names are told apart by what they hash to.
        let hash = Sha256::digest(name.as_bytes());
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{LOCK} {hash}")
    }

    fn list_sql(&self, is_mariadb: bool) -> String {
        // MySQL says nothing of a table that no row has come to yet.
        let unused = match is_mariadb {
            true => "",
            false => {
                "OR EXISTS (SELECT 1 FROM information_schema.columns c \
                 WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name \
                 AND c.extra LIKE '%auto_increment%')"
            }
        };
        let scope = match &self.database {
            Some(database) => format!("t.table_schema = {}", literal(database)),
            None => "t.table_schema NOT IN ('mysql', 'sys', 'information_schema', \
                     'performance_schema', '_cutover')"
                .to_owned(),
        };
        format!(
            "SELECT t.table_schema AS db, t.table_name AS name, t.table_type AS kind, \
             coalesce(t.auto_increment, 1) AS next FROM information_schema.tables t \
             WHERE {scope} AND (t.table_type = 'SEQUENCE' OR t.auto_increment IS NOT NULL \
             {unused}) ORDER BY 1, 2"
        )
    }

    async fn counters(
        &self,
        session: &mut MysqlSession,
        deadline: Instant,
    ) -> Result<Counters, MysqlError> {
        let about = session.row(ABOUT, deadline).await?;
        let is_mariadb = about.is_true("is_mariadb");
        if !is_mariadb {
            session.run(FRESH, deadline).await?;
        }
        let mut counters = Counters::default();
        let mut sequences = Vec::new();
        for row in session.run(&self.list_sql(is_mariadb), deadline).await?.rows {
            let (Some(schema), Some(name)) = (row.get("db"), row.get("name")) else { continue };
            let name = QualifiedName::new(schema, name);
            match row.get("kind") {
                Some("SEQUENCE") => sequences.push(name),
                _ => drop(counters.tables.insert(name, row.number("next")?)),
            }
        }
        for names in sequences.chunks(CHUNK) {
            let one = |(at, name): (usize, &QualifiedName)| {
                format!(
                    "SELECT {at} AS at, next_not_cached_value AS next, increment AS step, \
                     minimum_value AS low, maximum_value AS high, cycle_option AS cycles, \
                     cycle_count AS round FROM {}",
                    quoted(name)
                )
            };
            let selects: Vec<_> = names.iter().enumerate().map(one).collect();
            for row in session.run(&selects.join(" UNION ALL "), deadline).await?.rows {
                let value = Value {
                    next: row.number("next")?,
                    step: row.number("step")?,
                    low: row.number("low")?,
                    high: row.number("high")?,
                    cycles: row.is_true("cycles"),
                    round: row.number("round")?,
                };
                if let Some(name) = names.get(row.number::<usize>("at")?) {
                    counters.sequences.insert(name.clone(), value);
                }
            }
        }
        Ok(counters)
    }

    async fn source_counters(&self, deadline: Instant) -> PortResult<Counters> {
        let mut session = self.source.take(deadline).await?;
        let counters = self.counters(&mut session, deadline).await;
        self.source.put(session).await;
        counters.map_err(|error| error.at(self.from, "reading AUTO_INCREMENT and sequences"))
    }

    /// A session that sets counters: no other one of ours does, or will.
    async fn setter(&self, deadline: Instant) -> PortResult<MysqlSession> {
        let doing = "setting AUTO_INCREMENT and sequences";
        let mut session = self.target.take(deadline).await?;
        session.hold(&self.lock(), true, self.to, doing, deadline).await?;
        session.run(UNLOGGED, deadline).await.map_err(|error| error.at(self.to, doing))?;
        Ok(session)
    }

    async fn set(
        &self,
        session: &mut MysqlSession,
        sql: &str,
        name: &QualifiedName,
        deadline: Instant,
    ) -> PortResult<()> {
        match session.run(sql, deadline).await {
            Ok(_) => Ok(()),
            Err(error) if error.is(LOCK_WAIT_TIMEOUT) => {
                let mut open = session.run(OPEN, soon()).await;
                if open.is_err() {
                    open = session.run(OPEN_UNTOLD, soon()).await;
                }
                let who = |row: &crate::sql::TextRow| {
                    Some(format!("session {} since {}", row.get("id")?, row.get("since")?))
                };
                let open = match open {
                    Ok(answer) if answer.rows.is_empty() => "none".to_owned(),
                    Ok(answer) => answer.rows.iter().filter_map(who).collect::<Vec<_>>().join(", "),
                    Err(error) => format!("not known ({})", error.text),
                };
                Err(PortError::new(
                    self.to,
                    format!(
                        "the counter of {name} on {} could not be set in time; open transactions: {}",
                        self.to, open
                    ),
                )
                .remedy(format!("end what uses {name} on {}", self.to)))
            }
            Err(error) => Err(error.at(self.to, "setting AUTO_INCREMENT and sequences")),
        }
    }
}

fn raise_table_sql(name: &QualifiedName, next: u64) -> String {
    format!("ALTER TABLE {} AUTO_INCREMENT = {next}", quoted(name))
}

/// SETVAL lowers nothing: it is NULL for a value that has passed.
fn raise_sequence_sql(name: &QualifiedName, value: &Value) -> String {
    // A value beyond the end can't be set; the last one can, as one that was used.
    let (next, is_used) = match (value.is_exhausted(), value.goes_down()) {
        (false, _) => (value.next, 0),
        (true, false) => (value.high, 1),
        (true, true) => (value.low, 1),
    };
    format!("SELECT setval({}, {next}, {is_used}, {})", quoted(name), value.round)
}

fn names<'a>(names: impl IntoIterator<Item = &'a QualifiedName>) -> String {
    names.into_iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Sequences for MysqlSequences {
    async fn inspect(&self, sealed: bool) -> PortResult<Vec<Check>> {
        let (from, to) = (self.from, self.to);
        let wanted = self.source_counters(soon()).await?;
        let asked = |error: MysqlError| error.at(to, "looking at AUTO_INCREMENT and sequences");
        let mut session = self.target.take(soon()).await?;
        let there = self.counters(&mut session, soon()).await.map_err(asked)?;
        let about = session.row(ABOUT, soon()).await.map_err(asked)?;
        let grants = session.run("SHOW GRANTS", soon()).await.map_err(asked)?.rows;
        let of_source = self.source.run(ABOUT, "reading settings", soon()).await?.rows;
        let mut source = self.source.take(soon()).await?;
        let database = self.database.as_deref();
        let sides = ((&mut source, from), (&mut session, to));
        let mut automation = stored::inspect(sides.0, sides.1, database, sealed, soon()).await?;
        automation.extend(ghosts::inspect(&mut source, from, database, soon()).await?);
        self.source.put(source).await;
        self.target.put(session).await;
        let mut checks = Vec::new();
        let lacks = |name: &&QualifiedName| !there.sequences.contains_key(*name);
        let missing: Vec<_> = wanted.sequences.keys().filter(lacks).collect();
        if !missing.is_empty() {
            checks.push(Check::fail(
                "sequences-missing",
                format!("{to} lacks {} sequences: {}", missing.len(), names(missing)),
                format!("create them on {to} as they are on {from}"),
            ));
        }
        let differs = |(name, value): &(&QualifiedName, &Value)| {
            there.sequences.get(*name).is_some_and(|other| other.shape() != value.shape())
        };
        let differing: Vec<_> =
            wanted.sequences.iter().filter(differs).map(|(name, _)| name).collect();
        if !differing.is_empty() {
            checks.push(Check::warn(
                "sequences-differ",
                format!("increment, bounds or CYCLE differ on {to}: {}", names(differing)),
                format!("ALTER SEQUENCE on {to}"),
            ));
        }
        let step = |row: &crate::sql::TextRow| {
            (row.get("step").map(str::to_owned), row.get("first").map(str::to_owned))
        };
        if of_source.first().map(step) != Some(step(&about)) {
            checks.push(Check::warn(
                "auto-increment-step",
                format!("auto_increment_increment or auto_increment_offset differ on {to}"),
                format!("set them on {to} as they are on {from}, if keys are told apart by them"),
            ));
        }
        if about.is_true("read_only") && !sealed {
            checks.push(Check::fail(
                format!("{to}-read-only"),
                format!("{to} is read-only: clients could not write there after the flip"),
                format!("SET GLOBAL read_only = OFF on {to}"),
            ));
        }
        let rights = Rights::of(grants.iter().filter_map(|row| row.at(0)));
        let unlogged: &[&str] = match about.is_true("is_mariadb") {
            true => &["BINLOG ADMIN"],
            false => &["SYSTEM_VARIABLES_ADMIN", "SESSION_VARIABLES_ADMIN", "SUPER"],
        };
        let lacking = [&["ALTER"], &["INSERT"], unlogged].into_iter().filter(|r| !rights.has(r));
        let lacking: Vec<_> = lacking.map(|any_of| any_of[0]).collect();
        if !lacking.is_empty() {
            let account = rights.account.as_deref().unwrap_or("our account");
            let lacking = lacking.join(", ");
            checks.push(Check::fail(
                "sequences-settable",
                format!("{account} can't set AUTO_INCREMENT and sequences on {to}"),
                format!("GRANT {lacking} ON *.* TO {account}"),
            ));
        }
        if checks.is_empty() {
            let (tables, sequences) = (wanted.tables.len(), wanted.sequences.len());
            checks.push(Check::ok(
                "sequences",
                format!("{tables} tables with AUTO_INCREMENT, {sequences} sequences"),
            ));
        }
        checks.extend(automation);
        Ok(checks)
    }

    async fn copy(&self, deadline: Instant) -> PortResult<SequenceReport> {
        let wanted = self.source_counters(deadline).await?;
        let reading = |error: MysqlError| error.at(self.to, "reading AUTO_INCREMENT and sequences");
        let mut session = self.setter(deadline).await?;
        let there = self.counters(&mut session, deadline).await.map_err(reading)?;
        for (name, next) in &wanted.tables {
            // A table that the target lacks is none of those that are moved.
            if there.tables.get(name).is_some_and(|there| there < next) {
                self.set(&mut session, &raise_table_sql(name, *next), name, deadline).await?;
            }
        }
        for (name, value) in &wanted.sequences {
            let sql = raise_sequence_sql(name, value);
            self.set(&mut session, &sql, name, deadline).await?;
        }
        let there = self.counters(&mut session, deadline).await.map_err(reading)?;
        self.target.put(session).await;
        let lower = |name: &&QualifiedName| {
            let table = wanted.tables.get(*name).zip(there.tables.get(*name));
            let sequence = wanted.sequences.get(*name).zip(there.sequences.get(*name));
            table.is_some_and(|(wanted, there)| there < wanted)
                || sequence.is_some_and(|(wanted, there)| !there.is_at(wanted))
        };
        if let Some(name) = wanted.tables.keys().chain(wanted.sequences.keys()).find(lower) {
            let (from, to) = (self.from, self.to);
            return Err(PortError::new(
                to,
                format!("the counter of {name} stands lower than {from}'s after it was raised"),
            )
            .remedy(format!("something writes to {to}: find it")));
        }
        let tables = wanted.tables.keys().filter(|name| there.tables.contains_key(*name)).count();
        // The source is about to be sealed: nobody shall be left inside.
        self.source.close().await;
        Ok(SequenceReport { count: (tables + wanted.sequences.len()) as u64 })
    }

    fn describe(&self) -> Vec<Act> {
        let act =
            |place: &str, text: String| Act { step: "sync".into(), place: place.into(), text };
        let raise = format!(
            "{UNLOGGED}; ALTER TABLE .. AUTO_INCREMENT = ..{0}'s value.., where {1}'s is lower; \
             SELECT setval(.., ..{0}'s value..)",
            self.from, self.to
        );
        vec![act(self.from, self.list_sql(true)), act(self.to, raise)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_where_it_gives_no_value_twice() {
        let up = Value { next: 11, step: 1, low: 1, high: 20, cycles: true, round: 1 };
        let name = QualifiedName::new("s", "q`");
        assert_eq!(raise_sequence_sql(&name, &up), "SELECT setval(`s`.`q```, 11, 0, 1)");
        assert!(up.is_at(&up));
        assert!(!Value { next: 10, ..up.clone() }.is_at(&up));
        assert!(Value { next: 1, round: 2, ..up.clone() }.is_at(&up));
        let over = Value { next: 21, ..up };
        assert_eq!(raise_sequence_sql(&name, &over), "SELECT setval(`s`.`q```, 20, 1, 1)");
        let down = Value { next: -7, step: -2, low: -9, high: -1, cycles: false, round: 0 };
        assert!(Value { next: -9, ..down.clone() }.is_at(&down));
        assert!(!Value { next: -5, ..down.clone() }.is_at(&down));
        let over = Value { next: -11, ..down };
        assert_eq!(raise_sequence_sql(&name, &over), "SELECT setval(`s`.`q```, -9, 1, 0)");
    }
}
