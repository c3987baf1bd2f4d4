//! Watching that blue's tables and green's stay the same.
//!
//! DDL is not in the stream. A changed table announces itself with its next row, and the sink
//! refuses it then; but a dropped table, a new one, or one that nobody writes to, says nothing at
//! all. So the catalogs are compared: blue's tables with what is published, and with green's.
//!
//! A table that is not published stands in the way of a cutover; so does every difference, from
//! the moment it is seen. What was altered, replaced or dropped on blue stops the stream too, but only once
//! everything up to the head at that moment is on green: until then the stream still holds rows of
//! the old shape, which green must still have. After that the same DDL on green gives it the same shape.
//!
//! Partitions come and go by routine. They stop nothing: a new one is made on green
//! ([`super::record`]), or waited for; one that was detached or dropped is waited for until green has done
//! the same.
//!
//! The same shape does not mean the same rows. What a change may have done to rows is judged by the record of the
//! catalog, and whatever is unproven stands in the way until a comparison has answered it.

mod remedies;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use decoders::assemble::KnownTables;
use decoders::postgres::catalog::{self, RelationRecord, TableFilter};
use decoders::postgres::publication;
use decoders::postgres::session::{self, Session};
use decoders::{Lsn, QualifiedName, SourceError};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::catalog_mark::CatalogMark;
use super::ends::Ends;
use super::failure::Failure;
use super::firing::Switching;
use super::record::{self, Book, Look};
use super::truncation;
use crate::config::Config;
use crate::door::Door;
use crate::probe;
use crate::status::Shared;
use crate::store::Store;
use sinks::catalog_record::Mark;

/// How often it is looked whether the catalogs have changed. No locks.
const INTERVAL: Duration = Duration::from_secs(3);
/// How often they are read although nothing says so.
const WHOLE_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a server could not be asked; the stream's own errors say why.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// What stands in the way until the first comparison.
pub(super) const NOT_COMPARED: &str = "blue's tables have not been compared with green's yet";

/// How many tables of a kind are named.
const NAMED_MAX: usize = 5;

/// A table's columns by name: type, and whether the server computes it.
type Columns = BTreeMap<String, (String, bool)>;
/// Tables that hold rows, by name.
type Tables = BTreeMap<QualifiedName, Columns>;

/// A difference.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Drift {
    /// Replicated before, gone from blue now.
    Dropped { table: QualifiedName, is_partition: bool },
    /// On both, but not the same.
    Altered {
        table: QualifiedName,
        how: String,
        /// Columns that green alone has, with their types.
        on_green_only: Vec<(String, String)>,
        /// They are all that differs.
        is_that_all: bool,
    },
    /// Published, and not on green. The statement makes it there, if it is a partition.
    MissingOnGreen { table: QualifiedName, partition: Option<String> },
    /// On blue, and not published.
    Unpublished(QualifiedName),
    /// Another table has its name on blue, and green has the rows of the one before.
    MadeAgain(QualifiedName),
    /// A partition on green only.
    Detached { table: QualifiedName, parent: QualifiedName },
    /// A partition on blue only.
    Attached { table: QualifiedName, parent: QualifiedName, bounds: String },
}

impl Drift {
    /// Whether the stream has to stop. What is not in the stream can't stop it, and what partitions do by
    /// routine is waited for.
    fn stops(&self) -> bool {
        match self {
            Drift::Dropped { is_partition, .. } => !is_partition,
            Drift::MissingOnGreen { partition, .. } => partition.is_none(),
            Drift::Altered { .. } | Drift::MadeAgain(_) => true,
            Drift::Unpublished(_) | Drift::Detached { .. } | Drift::Attached { .. } => false,
        }
    }

    /// What to do about it, on green if it says nothing else, as soon as green has everything from before.
    fn remedy(&self) -> String {
        match self {
            Drift::Dropped { table, .. } => {
                format!("DROP TABLE {table}; (or rename it as on blue)")
            }
            Drift::Altered { table, on_green_only, is_that_all, .. } => {
                remedies::altered(table, on_green_only, *is_that_all)
            }
            Drift::MissingOnGreen { partition: Some(statement), .. } => format!("{statement};"),
            Drift::MissingOnGreen { table, partition: None } => format!(
                "CREATE TABLE {table} as on blue (rows that it had before it was replicated come \
                 by: cutover verify --table '{table}', cutover repair)"
            ),
            Drift::Unpublished(_) => String::new(),
            Drift::MadeAgain(table) => format!("TRUNCATE {table};"),
            Drift::Detached { table, parent } => {
                format!("ALTER TABLE {parent} DETACH PARTITION {table};")
            }
            Drift::Attached { table, parent, bounds } => {
                format!("ALTER TABLE {parent} ATTACH PARTITION {table} {bounds};")
            }
        }
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

/// All differences of tables. `kept` are those that were replicated when it was last looked, and whether
/// they were partitions.
fn compare(
    blue: &Tables,
    green: &Tables,
    published: &BTreeSet<QualifiedName>,
    kept: &BTreeMap<QualifiedName, bool>,
) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for (name, is_partition) in kept {
        if !blue.contains_key(name) && green.contains_key(name) {
            let (table, is_partition) = (name.clone(), *is_partition);
            drifts.push(Drift::Dropped { table, is_partition });
        }
    }
    for (name, columns) in blue {
        if !published.contains(name) {
            drifts.push(Drift::Unpublished(name.clone()));
            continue;
        }
        match green.get(name) {
            None => {
                let partition = None;
                drifts.push(Drift::MissingOnGreen { table: name.clone(), partition });
            }
            Some(on_green) if on_green != columns => {
                let alone = on_green.iter().filter(|(column, _)| !columns.contains_key(*column));
                let on_green_only: Vec<_> = alone
                    .map(|(column, (type_name, _))| (column.clone(), type_name.clone()))
                    .collect();
                drifts.push(Drift::Altered {
                    table: name.clone(),
                    how: describe(columns, on_green),
                    is_that_all: columns
                        .iter()
                        .all(|(column, kind)| on_green.get(column) == Some(kind)),
                    on_green_only,
                });
            }
            Some(_) => {}
        }
    }
    drifts
}

/// The tables that were replicated when it was last looked, and the partitions that green has of partitioned tables
/// that are: true for a partition, and for what is not published any more.
fn kept(book: &Book, look: &Look, filter: &TableFilter) -> BTreeMap<QualifiedName, bool> {
    let records = book.records().values().map(|kept| &kept.relation);
    let of_root = |relation: &&RelationRecord| {
        relation.is_decoded() && relation.parents.iter().any(|parent| filter.takes(&parent.name))
    };
    let of_green = look.target.iter().filter(|relation| relation.is_partition()).filter(of_root);
    let mut kept = BTreeMap::new();
    for relation in records.filter(|relation| relation.is_decoded()) {
        let waits = relation.is_partition() || relation.membership.is_none();
        kept.insert(relation.name.clone(), waits);
    }
    kept.extend(of_green.map(|relation| (relation.name.clone(), true)));
    kept
}

/// Puts partitions in their place: those that green lacks, and those that are one on one side only.
fn compare_partitions(drifts: &mut Vec<Drift>, look: &Look, filter: &TableFilter) {
    let blue: BTreeMap<_, _> =
        look.source.iter().map(|relation| (&relation.name, relation)).collect();
    let parent = |relation: &RelationRecord| match relation.is_partition() {
        true => relation.parents.first().map(|parent| parent.name.clone()),
        false => None,
    };
    for drift in drifts.iter_mut() {
        if let Drift::MissingOnGreen { table, partition } = drift {
            *partition = blue.get(&*table).copied().and_then(record::statement);
        }
    }
    for there in &look.target {
        let name = &there.name;
        let Some(here) = blue.get(name) else { continue };
        let (above_here, above_there) = (parent(here), parent(there));
        if above_here == above_there {
            continue;
        }
        if let Some(above) = above_there.filter(|above| filter.takes(above)) {
            drifts.retain(|drift| *drift != Drift::Unpublished(name.clone()));
            drifts.push(Drift::Detached { table: name.clone(), parent: above });
        }
        if let Some(above) = above_here.filter(|above| filter.takes(above)) {
            let bounds = here.bounds.clone().unwrap_or_default();
            drifts.push(Drift::Attached { table: name.clone(), parent: above, bounds });
        }
    }
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

/// Compares the catalogs again and again; returns when the stream has to stop. `known` is what the stream goes
/// by.
pub(super) async fn watch(
    switching: &Switching<'_>,
    shared: &Arc<Shared>,
    store: &Store,
    known: &KnownTables,
) -> Failure {
    let Switching { config, ends, door, .. } = *switching;
    let mut carries = shared.carries.subscribe();
    loop {
        // Whoever stands by has nothing to compare. A sender that is gone ends the stream anyway.
        let _ = carries.wait_for(|carries| *carries).await;
        let followed = async {
            let (blue, green) = connect(ends, door).await?;
            let (blue, green) = (&blue, &green);
            let watching = Watching { blue, green, config, ends, switching, shared, store };
            watching.follow(known).await
        };
        let followed = tokio::select! {
            followed = followed => followed,
            _ = carries.wait_for(|carries| !*carries) => {
                // What was being found out is not the matter any more.
                shared.stand_in_the_way(None);
                shared.catalog.compared(None);
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

/// Sessions on both ends, whichever is closed; that on green can write.
async fn connect(ends: &Ends, door: &Door) -> Result<(Session, Session), String> {
    let direction = ends.direction;
    let enter = |side| async move { door.enter(side).await.map_err(|error| error.what) };
    let _guards = [enter(direction.from()).await?, enter(direction.to()).await?];
    let (blue, green) = tokio::try_join!(
        session::connect(&ends.source, "cutover probe"),
        session::connect(&ends.target, "cutover probe")
    )
    .map_err(|error| error.to_string())?;
    record::make_writable(&green).await.map_err(|failure| failure.what)?;
    Ok((blue, green))
}

/// What has been found, and when.
struct Seen {
    at: Instant,
    marks: [String; 2],
    drifts: Vec<Drift>,
    /// What could not be found out or done yet.
    open: Vec<String>,
    /// Where blue's log ended then.
    head: Lsn,
}

impl Seen {
    fn has_waiting(&self) -> bool {
        !self.open.is_empty() || !self.drifts.is_empty()
    }
}

/// Two sessions that look.
struct Watching<'a> {
    blue: &'a Session,
    green: &'a Session,
    config: &'a Config,
    ends: &'a Ends,
    switching: &'a Switching<'a>,
    shared: &'a Arc<Shared>,
    store: &'a Store,
}

impl Watching<'_> {
    async fn follow(&self, known: &KnownTables) -> Result<Failure, String> {
        let Self { blue, green, config, ends, shared, .. } = *self;
        let text = |error: tokio_postgres::Error| error.to_string();
        let marks = [
            CatalogMark::prepare(blue).await.map_err(text)?,
            CatalogMark::prepare(green).await.map_err(text)?,
        ];
        let mut book = Book::open(green, config, known).await.map_err(|failure| failure.what)?;
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen: Option<Seen> = None;
        loop {
            tick.tick().await;
            // One after the other, here and below: together they would take two cores from the stream,
            // which is slower to notice than they are. The marks first: what changes while the tables
            // are read changes the next marks.
            let now = [marks[0].read().await.map_err(text)?, marks[1].read().await.map_err(text)?];
            let is_new = seen.as_ref().is_none_or(|seen| {
                seen.marks != now || seen.at.elapsed() >= WHOLE_INTERVAL || !seen.open.is_empty()
            });
            if is_new {
                let silent = truncation::silent(blue, &config.publication()).await;
                if let Some(failure) = silent.map_err(|error| error.to_string())? {
                    return Ok(failure);
                }
                let triggers = match self.look_at_triggers(&mut book).await {
                    Ok(open) => open,
                    Err(failure) => return Ok(failure),
                };
                let mut looked = self.look(&mut book, now, seen.take()).await?;
                looked.open.extend(triggers);
                seen = Some(looked);
            }
            let Some(seen) = &seen else { continue };
            let unproven = book.marks(green).await.map_err(|failure| failure.what)?;
            let is_passed = shared.progress.borrow().applied() >= seen.head;
            let publication = config.publication();
            let obstacle = obstacle(&seen.drifts, &seen.open, &unproven, is_passed, &publication);
            shared.stand_in_the_way(obstacle.map(|text| ends.words(text)));
            let stopping: Vec<_> =
                seen.drifts.iter().filter(|drift| drift.stops()).cloned().collect();
            if !stopping.is_empty() {
                let mut progress = shared.progress.subscribe();
                // The sender lives as long as `shared`, which we hold.
                let _ = progress.wait_for(|frontier| frontier.applied() >= seen.head).await;
                return Ok(stop(&stopping));
            }
        }
    }

    /// Keeps triggers off on green, and the notes of their states in step with blue: what stands in the way of a flip.
    /// What can't be switched or found out stands in the way, too, and keeps nobody from looking at the rest.
    async fn look_at_triggers(&self, book: &mut Book) -> Result<Vec<String>, Failure> {
        let mut open = Vec::new();
        let looked = async {
            let quieted = self.switching.quiet(self.green).await?;
            open.extend(quieted.still.iter().map(|(one, why)| {
                format!(
                    "{} on green fires for what is applied, and can't be switched off: {why}",
                    one.which
                )
            }));
            if !quieted.is_calm() {
                self.switching.doubt(book, self.green, &quieted).await?;
                record::end_proofs(self.config, self.shared, self.store)?;
            }
            self.switching.carry(self.blue, self.green).await
        };
        match looked.await {
            Ok(more) => open.extend(more),
            Err(failure) if failure.is_transient() => {
                open.push(format!(
                    "triggers on green could not be looked at ({}): {}",
                    failure.place, failure.what
                ));
            }
            Err(failure) => return Err(failure),
        }
        Ok(open)
    }

    async fn look(
        &self,
        book: &mut Book,
        marks: [String; 2],
        before: Option<Seen>,
    ) -> Result<Seen, String> {
        let Self { blue, green, config, shared, store, .. } = *self;
        let filter = &config.tables;
        let words = |failure: Failure| failure.what;
        let passed = before.as_ref().filter(|seen| seen.has_waiting());
        let is_passed = passed.is_some_and(|seen| shared.progress.borrow().applied() >= seen.head);
        let look = book.look(blue, green, config, is_passed).await.map_err(words)?;
        if look.has_moved {
            record::end_proofs(config, shared, store).map_err(words)?;
        }
        for table in &look.mirrored {
            tracing::info!(pipeline = config.name, %table, "a new partition of blue's was made on green");
        }
        let on_blue = read(blue, filter).await.map_err(|error| error.to_string())?;
        let on_green = read(green, filter).await.map_err(|error| error.to_string())?;
        let published = published(blue, config).await.map_err(|error| error.to_string())?;
        let kept = kept(book, &look, filter);
        let mut drifts = compare(&on_blue, &on_green, &published, &kept);
        compare_partitions(&mut drifts, &look, filter);
        drifts.extend(look.made_again.iter().cloned().map(Drift::MadeAgain));
        shared.catalog.compared(drifts.is_empty().then(|| marks[0].clone()));
        let head = match &before {
            Some(before) if before.drifts == drifts && !drifts.is_empty() => before.head,
            _ => probe::head(blue).await?,
        };
        Ok(Seen { at: Instant::now(), marks, drifts, open: look.open, head })
    }
}

/// Why no cutover may begin. `is_passed`: green has everything that blue wrote before the differences were
/// seen.
fn obstacle(
    drifts: &[Drift],
    open: &[String],
    unproven: &[Mark],
    is_passed: bool,
    publication: &str,
) -> Option<String> {
    let names = drifts.iter().filter_map(|drift| match drift {
        Drift::Unpublished(name) => Some(name),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    let mut words: Vec<_> = remedies::unpublished(&names, publication).into_iter().collect();
    for drift in drifts {
        words.push(match drift {
            Drift::Unpublished(_) => continue,
            drift if drift.stops() => drift.to_string(),
            drift if is_passed => format!("{drift}; on green: {}", drift.remedy()),
            drift => format!("{drift}; green still has to apply what came before"),
        });
    }
    words.extend(open.iter().cloned());
    for mark in unproven.iter().take(NAMED_MAX) {
        let Mark { table, why, .. } = mark;
        words.push(format!(
            "rows of {table} may differ: {why}; cutover verify --table '{table}' finds out (then, if \
             they do: cutover repair, and cutover verify, of all tables)"
        ));
    }
    if let Some(more) = unproven.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        words.push(format!("and {more} more tables that have to be compared: cutover verify"));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Drift::Dropped { table, .. } => write!(f, "{table} was dropped or renamed on blue"),
            Drift::Altered { table, how, .. } => write!(f, "{table} was altered: {how}"),
            Drift::MissingOnGreen { table, .. } => write!(f, "{table} is missing on green"),
            Drift::Unpublished(name) => write!(f, "{name} is not replicated"),
            Drift::MadeAgain(name) => write!(f, "{name} was dropped and made again on blue"),
            Drift::Detached { table, parent } => {
                write!(f, "{table} is a partition of {parent} on green and not on blue")
            }
            Drift::Attached { table, parent, .. } => {
                write!(f, "{table} is a partition of {parent} on blue and not on green")
            }
        }
    }
}

fn stop(drifts: &[Drift]) -> Failure {
    let what: Vec<_> = drifts.iter().map(ToString::to_string).collect();
    let remedy: Vec<_> = drifts.iter().map(Drift::remedy).collect();
    Failure::halt(
        "blue",
        format!("{}; green has every change that came before", what.join("; ")),
        format!("on green: {}; it goes on by itself then", remedy.join("; ")),
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
        let known = ["kept", "altered", "dropped"].map(|known| (name(known), false)).into();
        let published: BTreeSet<_> = ["kept", "altered", "partition"].map(name).into();
        let drifts = compare(&blue, &green, &published, &known);
        let obstacle = obstacle(&drifts, &[], &[], true, "cutover_shop").unwrap();
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

    /// The remedy for a table with these columns on blue and on green.
    fn remedy(blue: &[(&str, &str)], green: &[(&str, &str)]) -> String {
        let published: BTreeSet<_> = [name("t")].into();
        let known = [(name("t"), false)].into();
        let drifts = compare(&tables(&[("t", blue)]), &tables(&[("t", green)]), &published, &known);
        assert_eq!(drifts.len(), 1);
        drifts[0].remedy()
    }

    #[test]
    fn a_column_of_green_alone_has_two_remedies() {
        const AGAIN: &str = "the same ALTER TABLE \"public\".\"t\" as on blue";
        const DROP: &str = "ALTER TABLE \"public\".\"t\" DROP COLUMN \"new\";";
        const ADD: &str = "ALTER TABLE \"public\".\"t\" ADD COLUMN \"new\" date; on blue";
        let (id, new) = (("id", "integer"), ("new", "date"));
        let said = remedy(&[id], &[id, new]);
        assert!(said.contains(DROP) && said.contains(ADD) && !said.contains(AGAIN), "{said}");
        // It may be a rename: nothing is dropped without another word.
        let said = remedy(&[id, ("other", "date")], &[id, new]);
        assert!(said.starts_with(AGAIN) && said.contains(DROP) && said.contains(ADD), "{said}");
        let said = remedy(&[("id", "bigint")], &[id, new]);
        assert!(said.starts_with(AGAIN) && said.contains(DROP), "{said}");
        let said = remedy(&[id, new], &[id]);
        assert!(said.starts_with(AGAIN) && !said.contains("COLUMN"), "{said}");
    }

    #[test]
    fn equal_tables_show_nothing() {
        let both = tables(&[("kept", &[("a", "integer")])]);
        let published: BTreeSet<_> = [name("kept")].into();
        let known = [(name("kept"), false)].into();
        assert_eq!(compare(&both, &both, &published, &known), []);
        assert_eq!(obstacle(&[], &[], &[], true, "cutover_shop"), None);
    }

    #[test]
    fn partitions_that_come_and_go_are_waited_for() {
        let (table, parent) = (name("p"), name("m"));
        let dropped = Drift::Dropped { table: table.clone(), is_partition: true };
        let statement = "CREATE TABLE p PARTITION OF m DEFAULT".to_owned();
        let drifts = [
            dropped,
            Drift::MissingOnGreen { table: name("q"), partition: Some(statement) },
            Drift::Detached { table, parent },
        ];
        assert!(!drifts.iter().any(Drift::stops));
        let early = obstacle(&drifts, &[], &[], false, "cutover_shop").unwrap();
        assert!(!early.contains("DROP TABLE") && early.contains("still has to apply"), "{early}");
        let late = obstacle(&drifts, &[], &[], true, "cutover_shop").unwrap();
        for remedy in ["DROP TABLE \"public\".\"p\"", "PARTITION OF m DEFAULT", "DETACH PARTITION"]
        {
            assert!(late.contains(remedy), "{remedy} is missing in {late}");
        }
    }

    #[test]
    fn what_is_unproven_is_named_with_the_command() {
        let mark = |table: String| Mark { table: name(&table), why: "w".into(), revision: 1 };
        let marks: Vec<_> = (0..7).map(|n| mark(format!("t{n}"))).collect();
        let said = obstacle(&[], &[], &marks, true, "cutover_shop").unwrap();
        assert!(said.contains("cutover verify --table '\"public\".\"t0\"'"), "{said}");
        assert!(!said.contains("t5") && said.contains("and 2 more tables"), "{said}");
    }
}
