//! Schema changes of the source, repeated on green.
//!
//! # Why each is done once
//! A schema change commits by itself on these servers, so it can't be in one transaction with the lane's
//! progress. It is noted first ([`notes`]), with what green's catalog says of the objects that it names.
//! Then it runs, and its note is closed in the transaction that moves the progress. Who comes after a
//! crash in between finds the note open, and compares:
//!
//! - the catalog is as noted: the statement has not run, or changes nothing that is shown. Servers run a
//!   statement whole or not at all (MySQL 8, MariaDB 10.6), and a statement whose effect is not shown comes
//!   to the same when it runs twice; those for which that is not so are refused
//!   ([`Safety`](decoders::change::Safety)). It runs.
//! - the catalog is another: it has run. Nobody else changes green.
//!
//! It can't be that it *still runs*: it does so in the session that has the lane, and a lane is only taken
//! when that session has ended.
//!
//! # What is not repeated
//! What may come to something else on green, what green refuses, and everything unless it is asked for. The
//! note waits then for a person, who does it by hand and closes it, or makes room for it and starts again.

mod notes;
mod settings;
mod shape;
mod widening;

use decoders::change::{Definition, Lsn};
use decoders::mysql::ghost;
use decoders::mysql::server::{Server, code, identifier};
use decoders::mysql::stream::Kind;
use decoders::source::Disposition;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

pub(super) use notes::{close_statement, create_statement};

use self::notes::{Note, State, TABLE};
use self::settings::Before;
use self::shape::Shape;
use super::error::{of_rows, target_error};
use super::own::Marks;
use super::read;
use crate::target::TargetError;

/// A schema change on its way to green.
pub(super) struct Arriving<'a> {
    pub definition: &'a Definition,
    /// The number of its transaction.
    pub number: Lsn,
    pub pipeline: &'a str,
    /// What transactions begin with, so that a note is known as ours.
    pub marks: &'a Marks,
    pub server: &'a Server,
    /// Whether the operator wants them repeated.
    pub applies: bool,
}

impl Arriving<'_> {
    /// Brings green to what the statement makes. Its note is open when this returns, or was closed by a
    /// person.
    ///
    /// # Errors
    /// Halts, with what a person is to do, if it is not repeated or green refuses it.
    pub(super) async fn bring(&self, conn: &mut Conn) -> Result<(), TargetError> {
        let now = Shape::read(conn, self.definition).await?;
        let Some(note) = notes::read(conn, self.pipeline, self.number).await? else {
            let refusal = self.refusal(conn).await?;
            let state = if refusal.is_some() { State::Waits } else { State::Begun };
            notes::write(conn, self, &now, state).await?;
            return match refusal {
                Some(why) => Err(self.refused(&why)),
                None => self.run(conn).await,
            };
        };
        if note.text != self.definition.text || note.place != self.definition.place {
            return Err(self.refused("another statement is noted under its number"));
        }
        let Note { state, before, .. } = note;
        let is_as_before = before == now.text;
        match state {
            State::Done => return Ok(()),
            State::Begun if !is_as_before && has_run(self.definition, &now) => return Ok(()),
            State::Begun if !is_as_before => {
                return Err(self.refused("only a part of it has been done"));
            }
            State::Waits | State::Begun => {}
        }
        if let Some(why) = self.refusal(conn).await? {
            return Err(self.refused(&why));
        }
        if !is_as_before {
            return Err(self.refused("what it names has changed on green since it was noted"));
        }
        // Once more, so that green's own log has the note before the statement again.
        notes::write(conn, self, &now, State::Begun).await?;
        self.run(conn).await
    }

    async fn run(&self, conn: &mut Conn) -> Result<(), TargetError> {
        let mut before = Before::default();
        let entered = settings::enter(conn, self.definition, self.server, &mut before).await?;
        if let Some(why) = entered {
            return Err(self.waits(conn, before, self.refused(&why)).await);
        }
        tracing::info!(
            place = self.definition.place,
            kind = self.definition.kind,
            objects = self.definition.names(),
            "repeating a schema change on green"
        );
        match conn.query_drop(&self.definition.statement[..]).await {
            Ok(()) => settings::leave(conn, before).await,
            Err(error) => match self.failed(error) {
                failed if failed.disposition == Disposition::Halt => {
                    Err(self.waits(conn, before, failed).await)
                }
                failed => Err(failed),
            },
        }
    }

    /// It has not run, and whatever a person changes to make room for it would pass for its effect: so the
    /// note says that it waits for one. What is to be told; the session's failure, if it can't be noted:
    /// then the note says that it runs, and who comes next tries it.
    async fn waits(&self, conn: &mut Conn, before: Before, told: TargetError) -> TargetError {
        let noted = async {
            settings::leave(conn, before).await?;
            notes::wait(conn, self).await
        };
        noted.await.err().unwrap_or(told)
    }

    /// Why it is not repeated; `None` if it is.
    async fn refusal(&self, conn: &mut Conn) -> Result<Option<String>, TargetError> {
        let safety = &self.definition.safety;
        if !self.applies {
            return Ok(Some("apply.ddl is \"stop\"".to_owned()));
        }
        if safety.refused.is_some() {
            return Ok(safety.refused.clone());
        }
        if safety.only_if_empty.is_none() && safety.retyped.is_empty() {
            return Ok(None);
        }
        let Some(name) = self.definition.objects.first() else {
            return Ok(Some("what it names can't be told".to_owned()));
        };
        let Some(table) = read::info(conn, self.server, name).await? else {
            return Ok(Some("green does not have the table".to_owned()));
        };
        let sql = format!(
            "SELECT 1 FROM {}.{} LIMIT 1",
            identifier(&name.schema),
            identifier(&name.name)
        );
        let row: Result<Option<u8>, _> = conn.query_first(sql).await;
        if row.map_err(|error| target_error("looking for rows on green", error))?.is_none() {
            return Ok(None);
        }
        if let Some(why) = safety.only_if_empty {
            return Ok(Some(why.to_owned()));
        }
        let narrower = safety.retyped.iter().find(|new| !widening::holds(&table, new));
        Ok(narrower.map(|new| {
            format!("column {:?} would get a type that may not hold every value", new.column)
        }))
    }

    fn refused(&self, why: &str) -> TargetError {
        let Definition { place, kind, .. } = self.definition;
        TargetError::halt(
            format!(
                "{place}: {kind} of {} was not repeated on green: {why}{}. Everything before it is on \
                 green, nothing of it and nothing behind it",
                self.definition.names(),
                self.ghosts()
            ),
            self.by_hand(),
        )
    }

    fn failed(&self, error: mysql_async::Error) -> TargetError {
        let Definition { place, kind, .. } = self.definition;
        let number = code(&error);
        let doing = format!("{place}: {kind} of {} on green", self.definition.names());
        // The server's words may quote the statement, and values of rows.
        let mut told = of_rows(&doing, error);
        told.conflict = false;
        if told.disposition == Disposition::Halt {
            told.message.push_str(
                ". Everything before it is on green, nothing of it and nothing behind it",
            );
            let again = match number {
                // The statement has a view's DEFINER as blue has it.
                Some(1227) if *kind == Kind::View.label() => {
                    "grant the account the right to make views of another DEFINER (SET_ANY_DEFINER on \
                     MySQL, SET USER on MariaDB); or "
                }
                Some(1044 | 1142 | 1143 | 1227) => "grant the account the right; or ",
                _ => "",
            };
            told.remedy = Some(format!("{again}{}", self.by_hand()));
        }
        told
    }

    /// What a person does, and how it is told.
    fn by_hand(&self) -> String {
        let which = notes::condition(self.pipeline, self.number);
        let apply = match self.applies {
            true => "",
            false => {
                "; or set ddl = \"apply\" in [apply], which repeats what is safe, and start the sidecar again"
            }
        };
        format!(
            "on green: SELECT statement FROM {TABLE} WHERE {which}; run it there, or what comes to the \
             same; then UPDATE {TABLE} SET state = 'done' WHERE {which}; the stream then goes \
             on by itself{apply}"
        )
    }

    /// Tables that belong to a tool, in words.
    fn ghosts(&self) -> String {
        let ghosts = self.definition.objects.iter().filter_map(|name| {
            let of = ghost(&name.name)?;
            Some(format!("{} is a table of {} for {}", name.name, of.tool, of.original))
        });
        let ghosts: Vec<String> = ghosts.collect();
        match ghosts.is_empty() {
            true => String::new(),
            false => format!(
                " ({}: its change should have ended before the move began, or run with ddl = \"apply\")",
                ghosts.join(", ")
            ),
        }
    }
}

/// Whether a catalog that is another one than before can be what the statement made.
fn has_run(definition: &Definition, now: &Shape) -> bool {
    // MariaDB drops one after the other. Only a DROP names several views.
    let drops = definition.kind == Kind::DropTable.label()
        || (definition.kind == Kind::View.label() && definition.objects.len() > 1);
    !drops || now.is_all_absent
}

#[cfg(test)]
pub(super) mod tests {
    use decoders::change::{QualifiedName, Safety};

    use super::*;

    /// A statement of `kind` that names so many objects.
    pub fn definition(kind: Kind, objects: usize) -> Definition {
        Definition {
            place: String::new(),
            kind: kind.label(),
            objects: vec![QualifiedName::new("shop", "a"); objects],
            databases: Vec::new(),
            schema: "shop".into(),
            statement: bytes::Bytes::new(),
            text: String::new(),
            settings: Vec::new(),
            safety: Safety::default(),
            matters_to_rows: true,
        }
    }

    #[test]
    fn a_drop_has_run_when_nothing_that_it_names_is_there() {
        for (kind, objects, is_all_absent, expected) in [
            (Kind::DropTable, 1, true, true),
            (Kind::DropTable, 2, false, false),
            (Kind::View, 2, false, false),
            (Kind::View, 2, true, true),
            // CREATE, or a DROP of one.
            (Kind::View, 1, false, true),
            (Kind::View, 1, true, true),
            (Kind::RenameTable, 2, false, true),
        ] {
            let definition = definition(kind, objects);
            let now = Shape { text: "changed".into(), is_all_absent };
            assert_eq!(has_run(&definition, &now), expected, "{kind:?} {objects} {is_all_absent}");
        }
    }
}
