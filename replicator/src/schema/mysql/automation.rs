//! What runs by itself, from one side to the other: triggers and scheduled events.
//!
//! No stream carries them, and these servers can't keep a trigger quiet: what is applied would set it off
//! once more. So a side that is applied to has no triggers, and their definitions lie in its notes; its
//! events are disabled, or its scheduler is off because it is closed. At a flip:
//!
//! 1. [`Automation::bring`], before clients come: the side that opens gets what the closed side has then.
//! 2. [`Automation::quiet`], before anything comes back: the closed side loses its triggers.
//!
//! In this order, so that all definitions are on one of the sides at any time, and each act can be tried
//! again. A closed side that does not answer holds nobody up: what the target's notes say is made then, which
//! is what the source had at the copy, or the target itself before it lost it. Nothing of it goes to a binlog: the streams stop at statements that alter a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, ServerUrl};
use decoders::postgres::catalog::TableFilter;
use mysql_async::prelude::Queryable;

use super::make::{open, qualified};
use super::notes::{Kind, Notes};
use super::session::used_for_definitions;
use super::stored::{Definition, Object, make, note, without_effect};
use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;

/// Settings of the sessions that do it. A trigger waits for who reads its table, and clients wait for the
/// trigger.
pub(crate) const QUIETLY: &str = "SET SESSION sql_log_bin = 0, SESSION lock_wait_timeout = 2";

/// Clients wait for a closed side to say what runs there.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(3);

/// What runs by itself on the tables of one stream.
#[derive(Clone, Debug)]
pub struct Automation {
    /// The stream's name; the notes on its target are in it.
    pub pipeline: String,
    /// Where the stream comes from.
    pub source: ServerUrl,
    /// Where it goes.
    pub target: ServerUrl,
    /// Only this database; all of them without it.
    pub database: Option<String>,
    /// Tables that take part.
    pub filter: TableFilter,
}

/// How much was made or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Triggers.
    pub triggers: usize,
    /// Events.
    pub events: usize,
    /// The source did not answer: it may have others by now.
    pub as_noted: bool,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let Self { triggers, events, as_noted } = *self;
        write!(f, "{triggers} trigger{}, {events} event{}", plural(triggers), plural(events))?;
        if as_noted {
            f.write_str(
                " (as noted EARLIER, because the other side does not answer: compare them)",
            )?;
        }
        Ok(())
    }
}

impl Moved {
    /// Whether there was nothing to do.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Automation {
    /// Of the stream of this name. Which database it is, either URL may say.
    pub fn of(pipeline: String, [source, target]: [&ServerUrl; 2], filter: TableFilter) -> Self {
        Self {
            pipeline,
            database: source.database().or(target.database()).map(str::to_owned),
            source: source.clone(),
            target: target.clone(),
            filter,
        }
    }

    /// Makes on the target the triggers and events that the source has, as it has them. What is there
    /// already as it should be stays; what the source lacks stays, too.
    ///
    /// # Errors
    /// The servers'. Repeating it goes on.
    pub async fn bring(&self) -> Result<Moved, BackfillError> {
        let (mut target, server) = open(&self.target, "target").await?;
        quietly(&mut target).await?;
        used_for_definitions(&mut target, &server).await?;
        let notes = Notes::of(&self.pipeline);
        Notes::prepare(&mut target).await?;
        let mut moved = Moved::default();
        let wanted = match self.of_source().await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!(%error, "triggers and events are made as they were noted earlier");
                moved.as_noted = true;
                noted(&notes, &mut target).await?
            }
        };
        let there = self.all(&mut target).await?;
        for (table, triggers) in &wanted.triggers {
            if there.triggers.get(table) == Some(triggers) {
                continue;
            }
            // All of the table, one after the other: they fire in the order in which they were made.
            for (name, definition) in triggers {
                make_anew(&mut target, "TRIGGER", name, definition).await?;
                moved.triggers += 1;
            }
        }
        for (name, definition) in &wanted.events {
            let is_there = there.events.get(name);
            // One that is disabled on the source may be kept from running on the target for a reason.
            let runs = without_effect(&definition.statement).1;
            if is_there == Some(definition) || (is_there.is_some() && !runs) {
                continue;
            }
            // Not ALTER EVENT .. ENABLE: that makes an event run in the name of whoever says it.
            make_anew(&mut target, "EVENT", name, definition).await?;
            moved.events += 1;
        }
        for kind in [Kind::Trigger, Kind::Event] {
            for name in notes.all(&mut target, kind).await?.into_keys() {
                notes.strike(&mut target, kind, &name).await?;
            }
        }
        Ok(moved)
    }

    /// Takes the triggers off the target and notes them there, for whoever would open that side by hand.
    ///
    /// # Errors
    /// The server's. Repeating it goes on.
    pub async fn quiet(&self) -> Result<Moved, BackfillError> {
        let (mut target, _) = open(&self.target, "target").await?;
        quietly(&mut target).await?;
        let there = self.all(&mut target).await?;
        let mut moved = Moved::default();
        if there.triggers.is_empty() {
            return Ok(moved);
        }
        let notes = Notes::of(&self.pipeline);
        Notes::prepare(&mut target).await?;
        for (name, definition) in there.triggers.values().flatten() {
            note(&notes, &mut target, Kind::Trigger, name, definition).await?;
            drop_it(&mut target, "TRIGGER", name).await?;
            moved.triggers += 1;
        }
        Ok(moved)
    }

    /// What the source has, if it answers.
    async fn of_source(&self) -> Result<Running, BackfillError> {
        let reading = async {
            let (mut source, _) = open(&self.source, "source").await?;
            self.all(&mut source).await
        };
        let late = |_| BackfillError::retry("the source does not answer in time");
        tokio::time::timeout(SOURCE_TIMEOUT, reading).await.map_err(late)?
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
        for triggers in running.triggers.values_mut() {
            triggers.sort_by_key(|(_, definition)| definition.order);
        }
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

/// What waits on a target, by its notes.
async fn noted(notes: &Notes, target: &mut Conn) -> Result<Running, BackfillError> {
    let mut running = Running::default();
    let mut triggers = Vec::new();
    for (name, note) in notes.all(target, Kind::Trigger).await? {
        triggers.push((name, read(&note.detail)?));
    }
    triggers.sort_by_key(|(_, definition)| definition.order);
    // A note does not say of which table: in one order they are in the right one for each.
    running.triggers.insert(QualifiedName::new("", ""), triggers);
    for (name, note) in notes.all(target, Kind::Event).await? {
        running.events.insert(name, read(&note.detail)?);
    }
    Ok(running)
}

fn read(detail: &str) -> Result<Definition, BackfillError> {
    serde_json::from_str(detail).map_err(|error| {
        BackfillError::halt(
            format!("a note (_cutover.copy_notes) can't be read: {error}"),
            "create the trigger or event by hand and delete the note",
        )
    })
}

async fn quietly(conn: &mut Conn) -> Result<(), BackfillError> {
    let set = conn.query_drop(QUIETLY).await;
    set.map_err(|error| failed("keeping triggers and events out of the binlog", error))
}

async fn make_anew(
    conn: &mut Conn,
    kind: &str,
    name: &QualifiedName,
    definition: &Definition,
) -> Result<(), BackfillError> {
    drop_it(conn, kind, name).await?;
    let made = make(conn, name, definition).await;
    made.map_err(|error| failed(format!("making the {} {name}", kind.to_lowercase()), error))
}

async fn drop_it(conn: &mut Conn, kind: &str, name: &QualifiedName) -> Result<(), BackfillError> {
    let dropped = conn.query_drop(format!("DROP {kind} IF EXISTS {}", qualified(name))).await;
    dropped.map_err(|error| failed(format!("removing the {} {name}", kind.to_lowercase()), error))
}
