//! Watching that blue's tables and green's stay the same.
//!
//! DDL is not in the stream. A changed table announces itself with its next row, and the sink
//! refuses it then; but a dropped table, a new one, or one that nobody writes to, says nothing at
//! all. So the catalogs are compared: blue's tables with what is published, and with green's.
//!
//! A table that is not published stands in the way of a cutover; so does every difference, from
//! the moment it is seen. What was altered or dropped on blue stops the stream too, but only once
//! everything up to the head at that moment is on green: until then the stream still holds rows of
//! the old shape, which green must still have. After that the same DDL on green is exactly right,
//! and the remedy says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::catalog::{self, TableFilter};
use decoders::postgres::publication;
use decoders::postgres::session::{self, Session};
use decoders::{QualifiedName, SourceError};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::catalog_mark::CatalogMark;
use super::ends::Ends;
use super::failure::Failure;
use super::truncation;
use crate::config::Config;
use crate::door::Door;
use crate::probe;
use crate::status::Shared;

/// How often it is looked whether the catalogs have changed. No locks.
const INTERVAL: Duration = Duration::from_secs(3);
/// How often they are read although nothing says so.
const WHOLE_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a server could not be asked; the stream's own errors say why.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// What stands in the way until the first comparison.
pub(super) const NOT_COMPARED: &str = "blue's tables have not been compared with green's yet";

/// A table's columns by name: type, and whether the server computes it.
type Columns = BTreeMap<String, (String, bool)>;
/// Tables that hold rows, by name.
type Tables = BTreeMap<QualifiedName, Columns>;

/// A difference.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Drift {
    /// Published before, gone from blue now.
    Dropped(QualifiedName),
    /// On both, but not the same.
    Altered { table: QualifiedName, how: String },
    /// Published, and not on green.
    MissingOnGreen(QualifiedName),
    /// On blue, and not published.
    Unpublished(QualifiedName),
}

impl Drift {
    /// Whether the stream has to stop. What is not in the stream can't stop it.
    fn stops(&self) -> bool {
        !matches!(self, Drift::Unpublished(_))
    }
}

async fn read(session: &Session, filter: &TableFilter) -> Result<Tables, catalog::CatalogError> {
    let tables = catalog::tables(session, filter).await?;
    let shapes = tables.into_iter().filter(|table| table.is_decoded()).map(|table| {
        let columns = table.columns.iter().map(|column| {
            (column.name.clone(), (column.type_name.clone(), column.generated.is_some()))
        });
        (table.name.clone(), columns.collect())
    });
    Ok(shapes.collect())
}

/// The tables that are published now, as the stream names them.
pub(super) async fn published(
    blue: &Session,
    config: &Config,
) -> Result<BTreeSet<QualifiedName>, SourceError> {
    let tables = publication::tables(blue, &config.publication()).await?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}

/// All differences. `known` are the tables that were published when the stream began.
fn compare(
    blue: &Tables,
    green: &Tables,
    published: &BTreeSet<QualifiedName>,
    known: &BTreeSet<QualifiedName>,
) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for name in known.iter().filter(|name| !blue.contains_key(name) && green.contains_key(name)) {
        drifts.push(Drift::Dropped(name.clone()));
    }
    for (name, columns) in blue {
        if !published.contains(name) {
            drifts.push(Drift::Unpublished(name.clone()));
            continue;
        }
        match green.get(name) {
            None => drifts.push(Drift::MissingOnGreen(name.clone())),
            Some(on_green) if on_green != columns => {
                let how = describe(columns, on_green);
                drifts.push(Drift::Altered { table: name.clone(), how });
            }
            Some(_) => {}
        }
    }
    drifts
}

/// What blue has and green has not, column by column.
fn describe(blue: &Columns, green: &Columns) -> String {
    let mut words = Vec::new();
    for (name, (type_name, computed)) in blue {
        match green.get(name) {
            None => words.push(format!("blue has column {name:?} {type_name}, green has not")),
            Some((other, _)) if other != type_name => {
                words.push(format!("column {name:?} is {type_name} on blue, {other} on green"));
            }
            Some((_, other)) if other != computed => {
                words.push(format!("column {name:?} is generated on one side only"));
            }
            Some(_) => {}
        }
    }
    for name in green.keys().filter(|name| !blue.contains_key(*name)) {
        words.push(format!("green has column {name:?}, blue has not"));
    }
    words.join(", ")
}

/// Compares the catalogs again and again; returns when the stream has to stop. `known` are the
/// tables that were published when the stream began.
pub(super) async fn watch(
    config: &Config,
    ends: &Ends,
    door: &Door,
    shared: &Arc<Shared>,
    known: &BTreeSet<QualifiedName>,
) -> Failure {
    let mut carries = shared.carries.subscribe();
    loop {
        // Whoever stands by has nothing to compare. A sender that is gone ends the stream anyway.
        let _ = carries.wait_for(|carries| *carries).await;
        let followed = async {
            let (blue, green) = connect(ends, door).await?;
            follow(&blue, &green, config, ends, shared, known).await
        };
        let followed = tokio::select! {
            followed = followed => followed,
            _ = carries.wait_for(|carries| !*carries) => {
                // What was being found out is not the matter any more.
                shared.stand_in_the_way(None);
                continue;
            }
        };
        match followed {
            Ok(failure) => return failure,
            // An error here shows in the stream or in the lag too; this watch just tries again.
            Err(reason) => tracing::debug!(reason, "the catalogs could not be compared"),
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// Sessions on both ends, whichever is closed.
async fn connect(ends: &Ends, door: &Door) -> Result<(Session, Session), String> {
    let direction = ends.direction;
    let enter = |side| async move { door.enter(side).await.map_err(|error| error.what) };
    let _guards = [enter(direction.from()).await?, enter(direction.to()).await?];
    tokio::try_join!(
        session::connect(&ends.source, "cutover probe"),
        session::connect(&ends.target, "cutover probe")
    )
    .map_err(|error| error.to_string())
}

async fn follow(
    blue: &Session,
    green: &Session,
    config: &Config,
    ends: &Ends,
    shared: &Arc<Shared>,
    known: &BTreeSet<QualifiedName>,
) -> Result<Failure, String> {
    let text = |error: tokio_postgres::Error| error.to_string();
    let marks = [
        CatalogMark::prepare(blue).await.map_err(text)?,
        CatalogMark::prepare(green).await.map_err(text)?,
    ];
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read_before: Option<(Instant, [String; 2])> = None;
    loop {
        tick.tick().await;
        // One after the other, here and below: together they would take two cores from the stream,
        // which is slower to notice than they are. The marks first: what changes while the tables
        // are read changes the next marks.
        let now = [marks[0].read().await.map_err(text)?, marks[1].read().await.map_err(text)?];
        if let Some((at, before)) = &read_before
            && *before == now
            && at.elapsed() < WHOLE_INTERVAL
        {
            continue;
        }
        let silent = truncation::silent(blue, &config.publication()).await;
        if let Some(failure) = silent.map_err(|error| error.to_string())? {
            return Ok(failure);
        }
        let on_blue = read(blue, &config.tables).await.map_err(|error| error.to_string())?;
        let on_green = read(green, &config.tables).await.map_err(|error| error.to_string())?;
        let published = published(blue, config).await.map_err(|error| error.to_string())?;
        let drifts = compare(&on_blue, &on_green, &published, known);
        shared.stand_in_the_way(obstacle(&drifts).map(|text| ends.words(text)));
        let stopping: Vec<_> = drifts.into_iter().filter(Drift::stops).collect();
        if stopping.is_empty() {
            read_before = Some((Instant::now(), now));
            continue;
        }
        let head = probe::head(blue).await?;
        let mut progress = shared.progress.subscribe();
        // The sender lives as long as `shared`, which we hold.
        let _ = progress.wait_for(|frontier| frontier.applied() >= head).await;
        return Ok(stop(&stopping));
    }
}

/// Why no cutover may begin.
fn obstacle(drifts: &[Drift]) -> Option<String> {
    let mut words = Vec::new();
    for drift in drifts {
        words.push(match drift {
            Drift::Unpublished(name) => format!(
                "{name} is on blue and not replicated (created after the copy, or taken out of the \
                 publication): drop it, exclude it (tables.exclude), or copy again (replicator \
                 teardown, then run)"
            ),
            other => other.to_string(),
        });
    }
    (!words.is_empty()).then(|| words.join("; "))
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Drift::Dropped(name) => write!(f, "{name} was dropped or renamed on blue"),
            Drift::Altered { table, how } => write!(f, "{table} was altered: {how}"),
            Drift::MissingOnGreen(name) => write!(f, "{name} is missing on green"),
            Drift::Unpublished(name) => write!(f, "{name} is not replicated"),
        }
    }
}

fn stop(drifts: &[Drift]) -> Failure {
    let what: Vec<_> = drifts.iter().map(ToString::to_string).collect();
    let remedy: Vec<_> = drifts
        .iter()
        .map(|drift| match drift {
            Drift::Dropped(name) => format!("DROP TABLE {name}; (or rename it as on blue)"),
            Drift::Altered { table, .. } => format!("the same ALTER TABLE {table} as on blue"),
            Drift::MissingOnGreen(name) => format!("CREATE TABLE {name} as on blue"),
            Drift::Unpublished(_) => String::new(),
        })
        .collect();
    Failure::halt(
        "blue",
        format!("{}; green has everything from before", what.join("; ")),
        format!("on green: {}; then: replicator run", remedy.join("; ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> QualifiedName {
        QualifiedName::new("public", name)
    }

    fn tables(tables: &[(&str, &[(&str, &str)])]) -> Tables {
        let tables = tables.iter().map(|(table, columns)| {
            let columns = columns
                .iter()
                .map(|(column, type_name)| (column.to_string(), (type_name.to_string(), false)));
            (name(table), columns.collect())
        });
        tables.collect()
    }

    #[test]
    fn every_kind_of_drift_is_named() {
        let blue = tables(&[
            ("kept", &[("a", "integer")]),
            ("altered", &[("a", "bigint"), ("new", "date")]),
            ("created", &[]),
            ("partition", &[]),
        ]);
        let green = tables(&[
            ("kept", &[("a", "integer")]),
            ("altered", &[("a", "integer"), ("old", "text")]),
            ("dropped", &[]),
            ("extra", &[]),
        ]);
        let known: BTreeSet<_> = ["kept", "altered", "dropped"].map(name).into();
        let published: BTreeSet<_> = ["kept", "altered", "partition"].map(name).into();
        let drifts = compare(&blue, &green, &published, &known);
        let obstacle = obstacle(&drifts).unwrap();
        let stopping: Vec<_> = drifts.into_iter().filter(Drift::stops).collect();
        let failure = stop(&stopping);
        for part in [
            "\"public\".\"dropped\" was dropped",
            "\"public\".\"partition\" is missing on green",
            "column \"a\" is bigint on blue, integer on green",
            "blue has column \"new\" date",
            "green has column \"old\"",
        ] {
            assert!(failure.what.contains(part), "{part} is missing in {}", failure.what);
            assert!(obstacle.contains(part), "{part} is missing in {obstacle}");
        }
        assert!(obstacle.contains("\"public\".\"created\" is on blue and not replicated"));
        assert!(!failure.what.contains("created") && !obstacle.contains("extra"), "{obstacle}");
        assert!(failure.remedy.unwrap().contains("DROP TABLE \"public\".\"dropped\";"));
    }

    #[test]
    fn equal_tables_show_nothing() {
        let both = tables(&[("kept", &[("a", "integer")])]);
        let published: BTreeSet<_> = [name("kept")].into();
        assert_eq!(compare(&both, &both, &published, &published), []);
        assert_eq!(obstacle(&[]), None);
    }
}
