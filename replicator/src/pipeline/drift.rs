//! Watching that blue's tables stay what they were when the stream began.
//!
//! DDL is not in the stream. A changed table announces itself with its next row, and the sink
//! refuses it then; but a dropped table, or one that nobody writes to, says nothing at all. So the
//! catalog is looked at as well.
//!
//! What was seen at a head H is acted on only once everything up to H is on green: until then the
//! stream still holds rows of the old shape, which green must still have. After that the same DDL
//! on green is exactly right, and the remedy says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::catalog::{self, TableFilter};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use decoders::{Lsn, QualifiedName};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::types::PgLsn;

use super::failure::Failure;
use crate::status::Shared;

/// How often blue's catalog is read. Some queries over the tables; no locks.
const INTERVAL: Duration = Duration::from_secs(3);
/// Pause after blue could not be asked; the stream's own errors say why.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A table's columns: number, name, type, generated.
type Columns = Vec<(i16, String, String, bool)>;

/// What blue's tables look like at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Shape {
    tables: BTreeMap<u32, (QualifiedName, Columns)>,
}

/// What has changed since.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Drift {
    Dropped(QualifiedName),
    Renamed { from: QualifiedName, to: QualifiedName },
    Altered { table: QualifiedName, how: String },
    New(QualifiedName),
}

impl Shape {
    async fn read(blue: &Session, filter: &TableFilter) -> Result<Self, catalog::CatalogError> {
        let tables = catalog::tables(blue, filter).await?;
        let shapes = tables.into_iter().filter(|table| table.is_decoded()).map(|table| {
            let columns = table.columns.iter().map(|column| {
                let generated = column.generated.is_some();
                (column.number, column.name.clone(), column.type_name.clone(), generated)
            });
            (table.oid, (table.name.clone(), columns.collect()))
        });
        Ok(Self { tables: shapes.collect() })
    }

    /// What became of `self`'s tables in `now`.
    fn drift(&self, now: &Self) -> Vec<Drift> {
        let mut drifts = Vec::new();
        for (oid, (name, columns)) in &self.tables {
            let Some((name_now, columns_now)) = now.tables.get(oid) else {
                drifts.push(Drift::Dropped(name.clone()));
                continue;
            };
            if name != name_now {
                drifts.push(Drift::Renamed { from: name.clone(), to: name_now.clone() });
            }
            if columns != columns_now {
                let how = describe(columns, columns_now);
                drifts.push(Drift::Altered { table: name_now.clone(), how });
            }
        }
        for (oid, (name, _)) in &now.tables {
            if !self.tables.contains_key(oid) {
                drifts.push(Drift::New(name.clone()));
            }
        }
        drifts
    }
}

/// The columns' differences, by attribute number, which survives a rename.
fn describe(before: &Columns, now: &Columns) -> String {
    let mut words = Vec::new();
    for (number, name, type_name, generated) in before {
        match now.iter().find(|column| column.0 == *number) {
            None => words.push(format!("column {name:?} dropped")),
            Some((_, name_now, ..)) if name_now != name => {
                words.push(format!("column {name:?} renamed to {name_now:?}"));
            }
            Some((_, _, type_now, _)) if type_now != type_name => {
                words.push(format!("column {name:?} changed from {type_name} to {type_now}"));
            }
            Some((.., generated_now)) if generated_now != generated => {
                words.push(format!("column {name:?} changed how it is generated"));
            }
            Some(_) => {}
        }
    }
    for (number, name, type_name, _) in now {
        if !before.iter().any(|column| column.0 == *number) {
            words.push(format!("column {name:?} {type_name} added"));
        }
    }
    words.join(", ")
}

/// Watches blue's catalog; returns when the stream has to stop. New tables don't stop it: they
/// stand in the way of a cutover, and the status says so.
pub(super) async fn watch(
    filter: &TableFilter,
    blue: &ConnInfo,
    shared: &Arc<Shared>,
) -> Failure {
    let mut known: Option<Shape> = None;
    loop {
        if let Ok(session) = session::connect(blue, "cutover probe").await {
            // An error here shows in the stream or in the lag too; this watch just tries again.
            if let Ok(failure) = follow(&session, filter, shared, &mut known).await {
                return failure;
            }
        }
        sleep(RETRY_INTERVAL).await;
    }
}

async fn follow(
    blue: &Session,
    filter: &TableFilter,
    shared: &Arc<Shared>,
    known: &mut Option<Shape>,
) -> Result<Failure, catalog::CatalogError> {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Shape::read(blue, filter).await?;
        let Some(known) = known.as_ref() else {
            *known = Some(now);
            continue;
        };
        let (new, changed): (Vec<_>, Vec<_>) =
            known.drift(&now).into_iter().partition(|drift| matches!(drift, Drift::New(_)));
        shared.stand_in_the_way(new_tables(&new));
        if changed.is_empty() {
            continue;
        }
        let sql = "SELECT pg_catalog.pg_current_wal_insert_lsn()";
        let asked = blue.query_one(sql, &[]).await;
        let row = asked.map_err(|error| catalog::CatalogError::query("blue's position", error))?;
        let head = Lsn(row.get::<_, PgLsn>(0).into());
        let mut progress = shared.progress.subscribe();
        // The sender lives as long as `shared`, which we hold.
        let _ = progress.wait_for(|frontier| frontier.applied() >= head).await;
        return Ok(stop(&changed));
    }
}

fn new_tables(new: &[Drift]) -> Option<String> {
    let names: Vec<String> = new
        .iter()
        .filter_map(|drift| match drift {
            Drift::New(name) => Some(name.to_string()),
            _ => None,
        })
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "created on blue after the copy and not replicated: {}. Drop them, exclude them \
             (tables.exclude), or copy again (replicator teardown, then run)",
            names.join(", ")
        )
    })
}

fn stop(changed: &[Drift]) -> Failure {
    let mut what = Vec::new();
    let mut remedy = Vec::new();
    for drift in changed {
        match drift {
            Drift::Dropped(name) => {
                what.push(format!("{name} was dropped on blue"));
                remedy.push(format!("DROP TABLE {name};"));
            }
            Drift::Renamed { from, to } => {
                what.push(format!("{from} was renamed to {to} on blue"));
                remedy.push(format!("-- rename {from} to {to}"));
            }
            Drift::Altered { table, how } => {
                what.push(format!("{table} was altered on blue: {how}"));
                remedy.push(format!("-- the same ALTER TABLE {table}"));
            }
            Drift::New(_) => {}
        }
    }
    Failure::halt(
        "blue",
        format!("{}; green has everything from before", what.join("; ")),
        format!("on green: {} then: replicator run", remedy.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(tables: &[(u32, &str, &[(i16, &str, &str)])]) -> Shape {
        let tables = tables.iter().map(|(oid, name, columns)| {
            let columns = columns.iter().map(|(number, name, type_name)| {
                (*number, name.to_string(), type_name.to_string(), false)
            });
            (*oid, (QualifiedName::new("public", *name), columns.collect()))
        });
        Shape { tables: tables.collect() }
    }

    #[test]
    fn every_kind_of_drift_is_named() {
        let before = shape(&[
            (1, "kept", &[(1, "a", "integer")]),
            (2, "dropped", &[]),
            (3, "old", &[]),
            (4, "altered", &[(1, "a", "integer"), (2, "b", "text"), (3, "c", "text")]),
        ]);
        let now = shape(&[
            (1, "kept", &[(1, "a", "integer")]),
            (3, "new", &[]),
            (4, "altered", &[(1, "a", "bigint"), (2, "bee", "text"), (4, "d", "date")]),
            (5, "created", &[]),
        ]);
        let drifts = before.drift(&now);
        let failure = stop(&drifts);
        for part in [
            "\"public\".\"dropped\" was dropped",
            "renamed to \"public\".\"new\"",
            "column \"a\" changed from integer to bigint",
            "column \"b\" renamed to \"bee\"",
            "column \"c\" dropped",
            "column \"d\" date added",
        ] {
            assert!(failure.what.contains(part), "{part} is missing in {}", failure.what);
        }
        assert!(failure.remedy.unwrap().contains("DROP TABLE \"public\".\"dropped\";"));
        assert!(new_tables(&drifts).unwrap().contains("\"public\".\"created\""));
        assert_eq!(before.drift(&before), []);
    }
}
