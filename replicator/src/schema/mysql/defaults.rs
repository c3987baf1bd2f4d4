//! The default collation of databases, while something is made that keeps it.
//!
//! A routine, a trigger and an event keep the default that their database had when they were made (column
//! `Database Collation` of SHOW CREATE). Their variables and parameters without a character set of their own
//! have it. No statement names it, so the target's database gets it for the moment in which they are made.
//!
//! ALTER DATABASE commits by itself. So the database's own default is noted before, and whoever finds such a
//! note, after a crash, gives it back first.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, describe, identifier};
use mysql_async::prelude::Queryable;

use super::canonical_name;
use super::notes::{Kind, Notes, WAITING};
use super::stored::{Definition, make};
use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;

/// What the databases of a target have of their own.
pub(super) struct Defaults {
    notes: Notes,
    own: BTreeMap<String, String>,
}

impl Defaults {
    /// Reads them, after giving back what an attempt that was broken off has left.
    ///
    /// # Errors
    /// The server's.
    pub async fn of(conn: &mut Conn, notes: Notes) -> Result<Self, BackfillError> {
        for (name, note) in notes.all(conn, Kind::Default).await? {
            give(conn, &name.schema, &note.detail).await.map_err(|error| refused(&name, error))?;
            notes.strike(conn, Kind::Default, &name).await?;
        }
        let sql = "SELECT schema_name, default_collation_name FROM information_schema.schemata";
        let own: Vec<(String, String)> =
            conn.query(sql).await.map_err(|error| failed("reading databases", error))?;
        Ok(Self { notes, own: own.into_iter().collect() })
    }

    /// Makes something in a database with the default that it was defined in; the inner result is the server's
    /// answer to the definition. Where our role may not alter the database, it is made all the same.
    ///
    /// # Errors
    /// The server's, about the default. Repeating it gives the default back.
    pub async fn make(
        &self,
        conn: &mut Conn,
        name: &QualifiedName,
        definition: &Definition,
    ) -> Result<Result<(), mysql_async::Error>, BackfillError> {
        let wanted = definition.database_collation.as_str();
        let known = self.own.get(&name.schema).filter(|_| !wanted.is_empty());
        let Some(own) =
            known.filter(|own| canonical_name(Some(own)) != canonical_name(Some(wanted)))
        else {
            return Ok(make(conn, name, definition).await);
        };
        let database = QualifiedName::new(&name.schema, "");
        self.notes.write(conn, Kind::Default, &database, WAITING, own).await?;
        match give(conn, &name.schema, wanted).await {
            Ok(()) => {}
            Err(error @ mysql_async::Error::Server(_)) => tracing::warn!(
                object = %name, wanted, own, reason = describe(&error),
                "made with the database's own collation, not with the one that it was defined in"
            ),
            Err(error) => return Err(refused(&database, error)),
        }
        let made = make(conn, name, definition).await;
        give(conn, &name.schema, own).await.map_err(|error| refused(&database, error))?;
        self.notes.strike(conn, Kind::Default, &database).await?;
        Ok(made)
    }
}

async fn give(conn: &mut Conn, database: &str, collation: &str) -> Result<(), mysql_async::Error> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    debug_assert!(collation.chars().all(is_name), "{collation} comes from the server's catalog");
    let collation: String = collation.chars().filter(|c| is_name(*c)).collect();
    conn.query_drop(format!("ALTER DATABASE {} COLLATE {collation}", identifier(database))).await
}

fn refused(database: &QualifiedName, error: mysql_async::Error) -> BackfillError {
    failed(format!("the default collation of the database {:?}", database.schema), error)
}
