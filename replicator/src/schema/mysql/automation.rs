//! What runs by itself, from one side to the other: triggers and scheduled events.
//!
//! No stream carries them, and these servers can't keep a trigger quiet: what is applied would set it off
//! once more. So a side that is applied to has no triggers and no event that is enabled, and their
//! definitions lie in its notes. At a flip:
//!
//! 1. [`Automation::note`], with the source closed and nothing decided: what the source has is noted on the
//!    target. A failure ends the run, and nothing has changed.
//! 2. [`Automation::bring`], decided and before clients come: the target gets what was noted. The source is
//!    not asked any more, and may be gone. What was made is struck out, so whoever finds the act unfinished
//!    later, with clients at work, does no more than what is missing.
//! 3. [`Automation::quiet`], before anything comes back: the source loses its triggers, and its events are
//!    disabled. Its scheduler is off, but MariaDB forgets that in a restart.
//!
//! Nothing of it goes to a binlog: the streams stop at statements that alter a table.

use std::collections::BTreeMap;
use std::fmt;

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, ServerUrl};
use decoders::postgres::catalog::TableFilter;
use mysql_async::prelude::Queryable;

use super::defaults::Defaults;
use super::make::{open, qualified};
use super::notes::{Kind, Notes};
use super::session::used_for_definitions;
use super::stored::{Definition, Object, note, without_effect};
use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;

/// What notes of triggers and events are of.
const KINDS: [Kind; 2] = [Kind::Trigger, Kind::Event];

/// Settings of the sessions that do it. A trigger waits for who reads its table, and clients wait for the
/// trigger.
pub(crate) const QUIETLY: &str = "SET SESSION sql_log_bin = 0, SESSION lock_wait_timeout = 2";

/// What runs by itself on the tables of one stream.
#[derive(Clone, Debug)]
pub struct Automation {
    pipeline: String,
    source: ServerUrl,
    target: ServerUrl,
    /// Only this database; all of them without it.
    database: Option<String>,
    filter: TableFilter,
}

/// How much was noted, made, or kept quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Triggers.
    pub triggers: usize,
    /// Events.
    pub events: usize,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let Self { triggers, events } = *self;
        write!(f, "{triggers} trigger{}, {events} event{}", plural(triggers), plural(events))
    }
}

impl Moved {
    /// Whether there was nothing to do.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Automation {
    /// Of the stream of this name from `source` to `target`, for the tables that take part. The notes on the
    /// target are in that name. Which database it is, either URL may say.
    pub fn of(pipeline: String, [source, target]: [&ServerUrl; 2], filter: TableFilter) -> Self {
        Self {
            pipeline,
            database: source.database().or(target.database()).map(str::to_owned),
            source: source.clone(),
            target: target.clone(),
            filter,
        }
    }

    /// Notes on the target what the source has, in place of what was noted there.
    ///
    /// # Errors
    /// The servers'. Repeating it is fine.
    pub async fn note(&self) -> Result<Moved, BackfillError> {
        let (mut source, _) = open(&self.source, "source").await?;
        let (mut target, _) = open(&self.target, "target").await?;
        quietly(&mut target).await?;
        let there = self.all(&mut source).await?;
        let notes = Notes::of(&self.pipeline);
        Notes::prepare(&mut target).await?;
        // All or nothing: a list that is cut short would look like one.
        say(&mut target, "START TRANSACTION").await?;
        for kind in KINDS {
            for name in notes.all(&mut target, kind).await?.into_keys() {
                notes.strike(&mut target, kind, &name).await?;
            }
        }
        for (name, definition) in there.triggers.values().flatten() {
            note(&notes, &mut target, Kind::Trigger, name, definition).await?;
        }
        for (name, definition) in &there.events {
            note(&notes, &mut target, Kind::Event, name, definition).await?;
        }
        say(&mut target, "COMMIT").await?;
        Ok(Moved {
            triggers: there.triggers.values().map(Vec::len).sum(),
            events: there.events.len(),
        })
    }

    /// Makes on the target what is noted there. What is there already as it should be stays. What the server
    /// refuses stays noted and is named: clients are not kept waiting for it.
    ///
    /// # Errors
    /// The server's, but for refusals. Repeating it goes on.
    pub async fn bring(&self) -> Result<(Moved, Vec<String>), BackfillError> {
        let (mut target, server) = open(&self.target, "target").await?;
        quietly(&mut target).await?;
        let notes = Notes::of(&self.pipeline);
        Notes::prepare(&mut target).await?;
        let wanted = noted(&notes, &mut target).await?;
        let (mut moved, mut missing) = (Moved::default(), Vec::new());
        if wanted.is_empty() {
            // All was made, and the connection was lost before the collation was given back.
            return Ok((moved, Defaults::restore(&mut target, &notes).await?));
        }
        used_for_definitions(&mut target, &server).await?;
        let mut defaults = Defaults::of(&mut target, notes.clone()).await?;
        let there = self.all(&mut target).await?;
        for (table, triggers) in &wanted.triggers {
            let is_there = there.triggers.get(table) == Some(triggers);
            // All of the table, one after the other: they fire in the order in which they were made.
            for (name, definition) in triggers {
                if !is_there {
                    let made =
                        make_anew(&mut target, &mut defaults, "TRIGGER", name, definition).await;
                    if refused(made, &mut missing)? {
                        continue;
                    }
                    moved.triggers += 1;
                }
                notes.strike(&mut target, Kind::Trigger, name).await?;
            }
        }
        for (name, definition) in &wanted.events {
            let is_there = there.events.get(name);
            // One that is disabled on the source may be kept from running on the target for a reason.
            let runs = without_effect(&definition.statement).1;
            if is_there != Some(definition) && (runs || is_there.is_none()) {
                let made = make_anew(&mut target, &mut defaults, "EVENT", name, definition).await;
                if refused(made, &mut missing)? {
                    continue;
                }
                moved.events += 1;
            }
            notes.strike(&mut target, Kind::Event, name).await?;
        }
        missing.extend(defaults.give_back(&mut target).await?);
        Ok((moved, missing))
    }

    /// Takes the triggers off the target and disables its events, each noted there before, for whoever would
    /// open that side by hand.
    ///
    /// # Errors
    /// The server's. Repeating it goes on.
    pub async fn quiet(&self) -> Result<Moved, BackfillError> {
        let (mut target, server) = open(&self.target, "target").await?;
        quietly(&mut target).await?;
        let notes = Notes::of(&self.pipeline);
        Notes::prepare(&mut target).await?;
        let there = self.all(&mut target).await?;
        let runs = |definition: &Definition| without_effect(&definition.statement);
        let events: Vec<_> = there.events.iter().filter(|(_, event)| runs(event).1).collect();
        let mut moved = Moved::default();
        if there.triggers.is_empty() && events.is_empty() {
            let told = Defaults::restore(&mut target, &notes).await?;
            told.iter().for_each(|told| tracing::warn!("{told}"));
            return Ok(moved);
        }
        used_for_definitions(&mut target, &server).await?;
        let mut defaults = Defaults::of(&mut target, notes.clone()).await?;
        // All of them before the first goes, and none twice: those that are left are numbered anew.
        let noted = notes.all(&mut target, Kind::Trigger).await?;
        for (name, definition) in there.triggers.values().flatten() {
            if !noted.contains_key(name) {
                note(&notes, &mut target, Kind::Trigger, name, definition).await?;
            }
        }
        for (name, _) in there.triggers.values().flatten() {
            drop_it(&mut target, "TRIGGER", name).await?;
            moved.triggers += 1;
        }
        for (name, definition) in events {
            note(&notes, &mut target, Kind::Event, name, definition).await?;
            // Not ALTER EVENT: that would make it run in our name.
            let disabled = Definition { statement: runs(definition).0, ..definition.clone() };
            make_anew(&mut target, &mut defaults, "EVENT", name, &disabled).await?;
            moved.events += 1;
        }
        for told in defaults.give_back(&mut target).await? {
            tracing::warn!("{told}");
        }
        Ok(moved)
    }

    async fn all(&self, conn: &mut Conn) -> Result<Running, BackfillError> {
        let mut running = Running::default();
        for object in Object::all(conn, self.database.as_deref(), &self.filter, true).await? {
            match (object.kind.as_str(), &object.table) {
                ("TRIGGER", Some(table)) => {
                    let definition = object.definition(conn).await?;
                    let of_table = running.triggers.entry(table.clone()).or_default();
                    of_table.push((object.name, definition));
                }
                ("EVENT", _) => {
                    let definition = object.definition(conn).await?;
                    running.events.insert(object.name, definition);
                }
                _ => {}
            }
        }
        running.in_order();
        Ok(running)
    }
}

/// What runs by itself on a side.
#[derive(Default)]
struct Running {
    /// By table, those of one table in their order.
    triggers: BTreeMap<QualifiedName, Vec<(QualifiedName, Definition)>>,
    events: BTreeMap<QualifiedName, Definition>,
}

impl Running {
    fn is_empty(&self) -> bool {
        self.triggers.is_empty() && self.events.is_empty()
    }

    fn in_order(&mut self) {
        for triggers in self.triggers.values_mut() {
            triggers.sort_by_key(|(_, definition)| definition.order);
        }
    }
}

/// What waits on a target, by its notes.
async fn noted(notes: &Notes, target: &mut Conn) -> Result<Running, BackfillError> {
    let mut running = Running::default();
    for (name, note) in notes.all(target, Kind::Trigger).await? {
        let definition = read(&note.detail)?;
        // Notes of earlier versions don't say of which table: all in one order is right for each.
        let table = definition.table.clone().unwrap_or_else(|| QualifiedName::new("", ""));
        running.triggers.entry(table).or_default().push((name, definition));
    }
    for (name, note) in notes.all(target, Kind::Event).await? {
        running.events.insert(name, read(&note.detail)?);
    }
    running.in_order();
    Ok(running)
}

/// Whether the server refused it; why, is added to what is missing.
fn refused(
    made: Result<(), BackfillError>,
    missing: &mut Vec<String>,
) -> Result<bool, BackfillError> {
    match made {
        Ok(()) => Ok(false),
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => {
            missing.push(error.to_string());
            Ok(true)
        }
    }
}

fn read(detail: &str) -> Result<Definition, BackfillError> {
    serde_json::from_str(detail).map_err(|error| {
        BackfillError::halt(
            format!("a note (_cutover.copy_notes) can't be read: {error}"),
            "create the trigger or event by hand and delete the note",
        )
    })
}

async fn say(conn: &mut Conn, sql: &str) -> Result<(), BackfillError> {
    conn.query_drop(sql).await.map_err(|error| failed("noting triggers and events", error))
}

async fn quietly(conn: &mut Conn) -> Result<(), BackfillError> {
    let set = conn.query_drop(QUIETLY).await;
    set.map_err(|error| failed("keeping triggers and events out of the binlog", error))
}

async fn make_anew(
    conn: &mut Conn,
    defaults: &mut Defaults,
    kind: &str,
    name: &QualifiedName,
    definition: &Definition,
) -> Result<(), BackfillError> {
    drop_it(conn, kind, name).await?;
    let made = defaults.make(conn, name, definition).await?;
    made.map_err(|error| failed(format!("making the {} {name}", kind.to_lowercase()), error))
}

async fn drop_it(conn: &mut Conn, kind: &str, name: &QualifiedName) -> Result<(), BackfillError> {
    let dropped = conn.query_drop(format!("DROP {kind} IF EXISTS {}", qualified(name))).await;
    dropped.map_err(|error| failed(format!("removing the {} {name}", kind.to_lowercase()), error))
}
