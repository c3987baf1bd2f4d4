//! The default collation of databases, while something is made that keeps it.
//!
//! A routine, a trigger and an event keep the default that their database had when they were made (column
//! `Database Collation` of SHOW CREATE). Their variables and parameters without a character set of their own
//! have it. No statement names it, so the target's database has it while they are made.
//!
//! ALTER DATABASE commits by itself. So the database's own default is noted before, and whoever finds such a
//! note, after a crash, gives it back first.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, ServerUrl, code, describe, identifier};
use mysql_async::Error;
use mysql_async::prelude::Queryable;

use super::canonical_name;
use super::make::open;
use super::notes::{Kind, Notes, WAITING};
use super::stored::{Definition, make};
use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;

/// The role may not alter the database, or the server has no such collation (ER_DBACCESS_DENIED_ERROR,
/// ER_SPECIFIC_ACCESS_DENIED_ERROR, ER_UNKNOWN_COLLATION).
const NOT_GIVEN: [u16; 3] = [1044, 1227, 1273];
/// ER_BAD_DB_ERROR.
const NO_DATABASE: u16 = 1049;

/// The databases of a target with their own defaults, and the one that has another one at the moment.
pub(super) struct Defaults {
    notes: Notes,
    own: BTreeMap<String, String>,
    lent: Option<(String, String)>,
    told: Vec<String>,
}

impl Defaults {
    /// Reads them, after [restoring](Self::restore) what an attempt that was broken off has left.
    ///
    /// # Errors
    /// The server's.
    pub async fn of(conn: &mut Conn, notes: Notes) -> Result<Self, BackfillError> {
        let told = Self::restore(conn, &notes).await?;
        let sql = "SELECT schema_name, default_collation_name FROM information_schema.schemata";
        let own: Vec<(String, String)> =
            conn.query(sql).await.map_err(|error| failed("reading databases", error))?;
        Ok(Self { notes, own: own.into_iter().collect(), lent: None, told })
    }

    /// Gives back what an attempt that was broken off has left, and tells what could not be given.
    ///
    /// # Errors
    /// The server's.
    pub async fn restore(conn: &mut Conn, notes: &Notes) -> Result<Vec<String>, BackfillError> {
        let mut told = Vec::new();
        for (name, note) in notes.all(conn, Kind::OwnCollation).await? {
            match set(conn, &name.schema, &note.detail).await {
                Err(error) if is_one_of(&error, &NOT_GIVEN) => {
                    told.push(format!(
                        "the database {:?} should have the collation {} again: {}",
                        name.schema,
                        note.detail,
                        describe(&error)
                    ));
                    continue;
                }
                Err(error) if is_one_of(&error, &[NO_DATABASE]) => {}
                done => done.map_err(|error| refused(&name.schema, error))?,
            }
            notes.strike(conn, Kind::OwnCollation, &name).await?;
        }
        Ok(told)
    }

    /// Makes something while its database has the default that it was defined in; the inner result is the
    /// server's answer to the definition. The database keeps that default until [`Self::give_back`]. Where it
    /// can't be given, the object is made all the same, and `give_back` tells so.
    ///
    /// # Errors
    /// The server's, about the default.
    pub async fn make(
        &mut self,
        conn: &mut Conn,
        name: &QualifiedName,
        definition: &Definition,
    ) -> Result<Result<(), Error>, BackfillError> {
        if !definition.database_collation.is_empty() {
            self.lend(conn, name, &definition.database_collation).await?;
        }
        Ok(make(conn, name, definition).await)
    }

    async fn lend(
        &mut self,
        conn: &mut Conn,
        name: &QualifiedName,
        wanted: &str,
    ) -> Result<(), BackfillError> {
        if self.lent.as_ref().is_some_and(|(schema, _)| *schema != name.schema) {
            self.return_lent(conn).await?;
        }
        let Some(own) = self.own.get(&name.schema) else { return Ok(()) };
        let current = self.lent.as_ref().map_or(own, |(_, collation)| collation);
        if canonical_name(Some(current)) == canonical_name(Some(wanted)) {
            return Ok(());
        }
        let database = QualifiedName::new(&name.schema, "");
        if self.lent.is_none() {
            self.notes.write(conn, Kind::OwnCollation, &database, WAITING, own).await?;
        }
        match set(conn, &name.schema, wanted).await {
            Ok(()) => self.lent = Some((name.schema.clone(), wanted.to_owned())),
            Err(error) if is_one_of(&error, &NOT_GIVEN) => {
                self.told.push(format!(
                    "{name} keeps the collation {current} of its database, not {wanted}: {}",
                    describe(&error)
                ));
                if self.lent.is_none() {
                    self.notes.strike(conn, Kind::OwnCollation, &database).await?;
                }
            }
            Err(error) => return Err(refused(&name.schema, error)),
        }
        Ok(())
    }

    /// Gives the database its own default back. What could not be given is told.
    ///
    /// # Errors
    /// The server's. Whoever reads the defaults next gives it back.
    pub async fn give_back(mut self, conn: &mut Conn) -> Result<Vec<String>, BackfillError> {
        self.return_lent(conn).await?;
        Ok(self.told)
    }

    async fn return_lent(&mut self, conn: &mut Conn) -> Result<(), BackfillError> {
        let Some((schema, _)) = &self.lent else { return Ok(()) };
        if let Some(own) = self.own.get(schema) {
            set(conn, schema, own).await.map_err(|error| refused(schema, error))?;
        }
        let database = QualifiedName::new(schema, "");
        self.notes.strike(conn, Kind::OwnCollation, &database).await?;
        self.lent = None;
        Ok(())
    }
}

/// What a pipeline has left on a server is given back, as when it is forgotten; what could not be, is told.
///
/// # Errors
/// The server's.
pub(crate) async fn restore_collations(
    server: &ServerUrl,
    pipeline: &str,
) -> Result<Vec<String>, BackfillError> {
    let (mut conn, _) = open(server, "server").await?;
    match Notes::are_there(&mut conn).await? {
        true => Defaults::restore(&mut conn, &Notes::of(pipeline)).await,
        false => Ok(Vec::new()),
    }
}

async fn set(conn: &mut Conn, database: &str, collation: &str) -> Result<(), Error> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // From a catalog or from our notes, which others may have written to.
    let collation: String = collation.chars().filter(|c| is_name(*c)).collect();
    conn.query_drop(format!("ALTER DATABASE {} COLLATE {collation}", identifier(database))).await
}

fn is_one_of(error: &Error, codes: &[u16]) -> bool {
    code(error).is_some_and(|code| codes.contains(&code))
}

fn refused(database: &str, error: Error) -> BackfillError {
    failed(format!("the default collation of the database {database:?}"), error)
}
