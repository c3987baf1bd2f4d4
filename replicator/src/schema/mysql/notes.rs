//! What green remembers of the copy: which tables we made and may make anew, what waits for the end
//! of the copy, what waits for the flip.
//!
//! A definition (DDL) is a transaction of its own on these servers. So a note is written before the
//! act that it names, and whoever finds it looks at what is there.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::mysql::catalog::CatalogError;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{Conn, code};
use mysql_async::params;
use mysql_async::prelude::Queryable;

use crate::backfill::BackfillError;
use crate::backfill::mysql::{NOT_THERE, failed};

/// A pipeline's rows of `_cutover.copy_notes` on green. Several pipelines may fill one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notes {
    pipeline: String,
}

/// What a note is about. A name is used for one thing only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// A table; its statement in `detail`.
    Table,
    /// Keys of a table that are added when it has its rows; a list of statements in `detail`.
    Keys,
    /// Foreign keys of a table; the same.
    ForeignKeys,
    /// A trigger that is made at the flip.
    Trigger,
    /// An event that is enabled at the flip.
    Event,
    /// A database's own default collation while it has another one; the collation in `detail`.
    OwnCollation,
    /// The position of the snapshot that the rows are of.
    Position,
    /// How many copies have begun; the number in `detail`.
    Epoch,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Table => "table",
            Kind::Keys => "keys",
            Kind::ForeignKeys => "foreign keys",
            Kind::Trigger => "trigger",
            Kind::Event => "event",
            Kind::OwnCollation => "own collation",
            Kind::Position => "position",
            Kind::Epoch => "epoch",
        }
    }
}

/// A table is being made, or was when the process died.
pub(crate) const MAKING: &str = "making";
/// It is there, empty or with rows of a copy that is not complete: ours to empty.
pub(crate) const FILLING: &str = "filling";
/// It has all rows, which are green's own from now on.
pub(crate) const COPIED: &str = "copied";
/// Not done yet: keys, foreign keys, triggers, events.
pub(crate) const WAITING: &str = "waiting";

/// A note's state and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    pub state: String,
    pub detail: String,
}

const CREATE: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS _cutover CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS _cutover.copy_notes (
       pipeline VARCHAR(64) NOT NULL, kind VARCHAR(16) NOT NULL, db VARCHAR(64) NOT NULL, name VARCHAR(64) NOT NULL,
       state VARCHAR(16) NOT NULL, detail LONGTEXT NOT NULL,
       PRIMARY KEY (pipeline, kind, db, name)
     ) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
];

fn asked(error: mysql_async::Error) -> BackfillError {
    failed("the notes of the copy on green (_cutover.copy_notes)", error)
}

impl Notes {
    /// Those of a pipeline, by the operator's name for it.
    pub fn of(pipeline: impl Into<String>) -> Self {
        Self { pipeline: pipeline.into() }
    }

    /// Whose they are.
    pub(crate) fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The tables that copies of ours have made, of any pipeline; none where there are no notes.
    ///
    /// # Errors
    /// The notes can't be read.
    pub async fn tables(green: &mut Conn) -> Result<BTreeSet<QualifiedName>, CatalogError> {
        let sql = "SELECT db, name FROM _cutover.copy_notes WHERE kind = 'table'";
        let rows: Vec<(String, String)> = match green.query(sql).await {
            Err(error) if code(&error).is_some_and(|code| NOT_THERE.contains(&code)) => Vec::new(),
            rows => rows.map_err(|error| CatalogError::query("tables of earlier copies", error))?,
        };
        Ok(rows.into_iter().map(|(db, name)| QualifiedName::new(db, name)).collect())
    }

    /// Databases whose tables were copied, by any pipeline, and that are not there any more.
    ///
    /// # Errors
    /// The notes can't be read.
    pub async fn lost_databases(green: &mut Conn) -> Result<BTreeSet<String>, CatalogError> {
        let sql = "SELECT DISTINCT n.db FROM _cutover.copy_notes n
                   LEFT JOIN information_schema.schemata s
                     ON CAST(s.schema_name AS BINARY) = CAST(n.db AS BINARY)
                   WHERE n.kind = 'table' AND n.state = 'copied' AND s.schema_name IS NULL";
        let rows: Vec<String> = match green.query(sql).await {
            Err(error) if code(&error).is_some_and(|code| NOT_THERE.contains(&code)) => Vec::new(),
            rows => rows.map_err(|error| CatalogError::query("tables of earlier copies", error))?,
        };
        Ok(rows.into_iter().collect())
    }

    /// Whether a copy or a flip has ever noted something on this server.
    pub(crate) async fn are_there(conn: &mut Conn) -> Result<bool, BackfillError> {
        let sql = "SELECT count(*) FROM information_schema.tables
                   WHERE table_schema = '_cutover' AND table_name = 'copy_notes'";
        let found: Option<u64> = conn.query_first(sql).await.map_err(asked)?;
        Ok(found.is_some_and(|tables| tables > 0))
    }

    /// Makes the table of notes.
    pub(crate) async fn prepare(green: &mut Conn) -> Result<(), BackfillError> {
        for statement in CREATE {
            green.query_drop(statement).await.map_err(asked)?;
        }
        Ok(())
    }

    /// All notes of a kind.
    pub(crate) async fn all(
        &self,
        green: &mut Conn,
        kind: Kind,
    ) -> Result<BTreeMap<QualifiedName, Note>, BackfillError> {
        let sql = "SELECT db, name, state, detail FROM _cutover.copy_notes
                   WHERE pipeline = ? AND kind = ?";
        let rows: Vec<(String, String, String, String)> =
            green.exec(sql, (&self.pipeline, kind.label())).await.map_err(asked)?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|(db, name, state, detail)| (QualifiedName::new(db, name), Note { state, detail }))
            .collect())
    }

    /// Writes a note, in place of one of the same name.
    pub(crate) async fn write(
        &self,
        green: &mut Conn,
        kind: Kind,
        name: &QualifiedName,
        state: &str,
        detail: &str,
    ) -> Result<(), BackfillError> {
        let sql = "REPLACE INTO _cutover.copy_notes (pipeline, kind, db, name, state, detail)
                   VALUES (:pipeline, :kind, :db, :name, :state, :detail)";
        let parameters = params! {
            "pipeline" => &self.pipeline, "kind" => kind.label(), "db" => &name.schema, "name" => &name.name,
            "state" => state, "detail" => detail,
        };
        green.exec_drop(sql, parameters).await.map_err(asked)
    }

    /// Strikes a note out.
    pub(crate) async fn strike(
        &self,
        green: &mut Conn,
        kind: Kind,
        name: &QualifiedName,
    ) -> Result<(), BackfillError> {
        let sql = "DELETE FROM _cutover.copy_notes WHERE pipeline = ? AND kind = ? AND db = ? AND name = ?";
        let names = (&self.pipeline, kind.label(), &name.schema, &name.name);
        green.exec_drop(sql, names).await.map_err(asked)
    }

    /// One more copy begins; its number.
    pub(crate) async fn raise_epoch(&self, green: &mut Conn) -> Result<u64, BackfillError> {
        let sql = "INSERT INTO _cutover.copy_notes (pipeline, kind, db, name, state, detail)
                   VALUES (?, ?, '', '', '', '1')
                   ON DUPLICATE KEY UPDATE detail = CAST(detail AS UNSIGNED) + 1";
        let kind = Kind::Epoch.label();
        green.exec_drop(sql, (&self.pipeline, kind)).await.map_err(asked)?;
        let number = self.epoch_shared(green).await?;
        number.ok_or_else(|| BackfillError::retry("green has lost the note that was just written"))
    }

    /// The number of the copy that began last; nobody raises it before the open transaction ends.
    pub(crate) async fn epoch_shared(
        &self,
        green: &mut Conn,
    ) -> Result<Option<u64>, BackfillError> {
        let sql = "SELECT CAST(detail AS UNSIGNED) FROM _cutover.copy_notes
                   WHERE pipeline = ? AND kind = ? AND db = '' AND name = '' LOCK IN SHARE MODE";
        green.exec_first(sql, (&self.pipeline, Kind::Epoch.label())).await.map_err(asked)
    }

    /// Notes of which moment the rows on green are, or will be when the copy is complete.
    pub(crate) async fn write_position(
        &self,
        green: &mut Conn,
        position: &BinlogPosition,
    ) -> Result<(), BackfillError> {
        let place = QualifiedName::new("", "");
        self.write(green, Kind::Position, &place, FILLING, &position.to_string()).await
    }

    /// The position that was noted, and whether the copy is complete.
    pub(crate) async fn position(
        &self,
        green: &mut Conn,
    ) -> Result<Option<(BinlogPosition, bool)>, BackfillError> {
        let Some(note) = self.all(green, Kind::Position).await?.into_values().next() else {
            return Ok(None);
        };
        let position = note.detail.parse::<BinlogPosition>().map_err(|error| {
            BackfillError::halt(
                format!("the position that green notes ({:?}) can't be read: {error}", note.detail),
                "drop the copied tables and the database _cutover on green, and copy anew",
            )
        })?;
        Ok(Some((position, note.state == COPIED)))
    }

    /// The position of the rows on green, if the copy is complete.
    ///
    /// # Errors
    /// The notes can't be read.
    pub async fn copied(&self, green: &mut Conn) -> Result<Option<BinlogPosition>, BackfillError> {
        Notes::prepare(green).await?;
        let noted = self.position(green).await?;
        Ok(noted.and_then(|(position, is_complete)| is_complete.then_some(position)))
    }

    /// The same, without making anything on a green that nobody has copied to yet.
    ///
    /// # Errors
    /// The notes can't be read.
    pub async fn copied_before(
        &self,
        green: &mut Conn,
    ) -> Result<Option<BinlogPosition>, BackfillError> {
        let sql = "SELECT 1 FROM information_schema.tables
                   WHERE table_schema = '_cutover' AND table_name = 'copy_notes'";
        let there: Option<u8> = green.query_first(sql).await.map_err(asked)?;
        match there {
            Some(_) => self.copied(green).await,
            None => Ok(None),
        }
    }

    /// Ends all claims at once: the copy is complete and no table may be emptied any more. Repeating it
    /// is fine. In the transaction that the caller has open.
    pub(crate) async fn record_copied(&self, green: &mut Conn) -> Result<(), BackfillError> {
        let sql = "UPDATE _cutover.copy_notes SET state = ?
                   WHERE pipeline = ? AND kind IN ('table', 'position') AND state = ?";
        green.exec_drop(sql, (COPIED, &self.pipeline, FILLING)).await.map_err(asked)
    }
}
