//! A session that writes single rows beside the stream, while that is held.
//!
//! When a row may be written, and why the stream can't have a newer one, is for whoever calls; what is
//! written goes through the same plans and statements as the stream's changes, counts included. Foreign
//! keys are not checked, and nothing cascades: each row is made what it is on the source, and rows that
//! refer to it are rows of their own.

use std::sync::Arc;

use decoders::change::{ChangeEvent, Lsn, TableSchema};
use decoders::mysql::server::ServerUrl;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::error::{of_rows, target_error};
use super::own::Marks;
use super::plan::{Plan, missing_table};
use super::progress;
use super::read::Cascades;
use super::script::{Purpose, Script};
use super::session::{self, Capabilities};
use super::{read, statements};
use crate::progress::REPAIR;
use crate::target::TargetError;

/// How long a row waits for somebody else's lock, in seconds: the stream waits behind us. The servers'
/// least.
const LOCK_WAIT_S: u32 = 1;
/// How long the server keeps a transaction of ours that says nothing, in seconds: we may be lost.
const IDLE_S: u32 = 30;

/// A source's table fitted to the target's, for statements about its rows.
#[derive(Debug)]
pub struct Fitted(Plan);

impl Fitted {
    /// Changes as statements that a person can read and type. They have values in them.
    ///
    /// # Errors
    /// A value is none of its column's type.
    pub fn printed(&self, changes: &[ChangeEvent]) -> Result<Vec<String>, TargetError> {
        let printed = changes.iter().map(|change| statements::printed(&self.0, change));
        printed.filter_map(Result::transpose).collect()
    }
}

/// A row as the server gives it: bytes, or NULL.
pub type Fields = Vec<Option<Vec<u8>>>;

/// A session that repairs. After an error nothing of the transaction is left and the session can go on,
/// unless [`Repairer::is_lost`].
pub struct Repairer {
    /// None after a call that failed badly or was dropped half-way: nothing can be said about the session.
    conn: Option<Conn>,
    capabilities: Capabilities,
    target: ServerUrl,
    pipeline: String,
    marks: Marks,
}

impl Repairer {
    /// Connects. What is written is marked as that of `pipeline`, whose stream is applied there.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(target: &ServerUrl, pipeline: &str) -> Result<Self, TargetError> {
        let (conn, capabilities, marks) = connect(target, pipeline).await?;
        let (target, pipeline) = (target.clone(), pipeline.to_owned());
        Ok(Self { conn: Some(conn), capabilities, target, pipeline, marks })
    }

    /// Fits a table of the source to the target's.
    ///
    /// # Errors
    /// The server's; a table that does not fit halts.
    pub async fn fit(&mut self, schema: Arc<TableSchema>) -> Result<Fitted, TargetError> {
        let mut conn = self.take()?;
        let fitted = fit(&mut conn, &self.capabilities, schema).await;
        self.conn = Some(conn);
        fitted
    }

    /// Begins a transaction, and marks it as ours: that comes first in the target's log. On a new session,
    /// if the server has ended the last one: it says nothing for as long as a moment is waited for.
    ///
    /// # Errors
    /// The server's.
    pub async fn begin(&mut self) -> Result<(), TargetError> {
        let mut conn = self.take()?;
        if let Err(error) = conn.ping().await {
            tracing::debug!(reason = %error, "the session that repairs is opened anew");
            (conn, self.capabilities, self.marks) = connect(&self.target, &self.pipeline).await?;
        }
        let mut script = Script::new(self.capabilities.packet_bytes);
        let begun = async {
            let doing = "beginning a repair on green";
            let begun = conn.query_drop("START TRANSACTION").await;
            begun.map_err(|error| target_error(doing, error))?;
            // Another repair may have written since.
            self.marks.look(&mut conn).await?;
            script.add(&mut conn, &self.marks.statement(), Some(1), 0, Purpose::Progress).await?;
            script.send(&mut conn).await
        };
        let begun = begun.await;
        self.give_back(conn, begun).await
    }

    /// The rows of one statement, inside the transaction if one has begun.
    ///
    /// # Errors
    /// The server's, without its words: they may quote a value.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Fields>, TargetError> {
        let mut rows = Vec::new();
        self.each_row(sql, |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// The same, passed on one by one as they come.
    ///
    /// # Errors
    /// As there.
    pub async fn each_row(
        &mut self,
        sql: &str,
        mut take: impl FnMut(Fields),
    ) -> Result<(), TargetError> {
        let mut conn = self.take()?;
        let read = async {
            let mut rows = conn.query_iter(sql).await?;
            while let Some(row) = rows.next().await? {
                take(fields(row));
            }
            Ok(())
        };
        let read: Result<(), mysql_async::Error> = read.await;
        let read = read.map_err(|error| of_rows("reading rows of green for a repair", error));
        self.give_back(conn, read).await
    }

    /// Writes changes in their order, each of them as often as it says. `position` is the number of the
    /// source's moment, for errors.
    ///
    /// # Errors
    /// Green's; each change must affect exactly one row. The transaction is rolled back.
    pub async fn write(
        &mut self,
        table: &Fitted,
        changes: &[(ChangeEvent, u64)],
        position: Lsn,
    ) -> Result<(), TargetError> {
        let mut conn = self.take()?;
        let mut script = Script::new(self.capabilities.packet_bytes);
        let written = async {
            for (change, times) in changes {
                for _ in 0..*times {
                    statements::row(&mut script, &mut conn, &table.0, change, position).await?;
                }
            }
            script.send(&mut conn).await
        };
        let written = written.await;
        self.give_back(conn, written).await
    }

    /// Commits what was written.
    ///
    /// # Errors
    /// Green's. Whether it is committed is not known then.
    pub async fn commit(&mut self) -> Result<(), TargetError> {
        let mut conn = self.take()?;
        conn.query_drop("COMMIT")
            .await
            .map_err(|error| target_error("committing a repair on green", error))?;
        self.conn = Some(conn);
        Ok(())
    }

    /// Ends the transaction without a trace.
    pub async fn roll_back(&mut self) {
        let Ok(conn) = self.take() else { return };
        self.rolled_back(conn).await;
    }

    /// Whether the session is of no use any more.
    pub fn is_lost(&self) -> bool {
        self.conn.is_none()
    }

    fn take(&mut self) -> Result<Conn, TargetError> {
        self.conn.take().ok_or_else(|| TargetError::retry("the session that repairs is gone"))
    }

    async fn give_back<T>(
        &mut self,
        conn: Conn,
        done: Result<T, TargetError>,
    ) -> Result<T, TargetError> {
        match done {
            Ok(done) => {
                self.conn = Some(conn);
                Ok(done)
            }
            Err(error) => {
                self.rolled_back(conn).await;
                Err(error)
            }
        }
    }

    async fn rolled_back(&mut self, mut conn: Conn) {
        // A statement that failed half-way may have left the mode of another row.
        let back = conn.query_drop("ROLLBACK").await.is_ok()
            && conn.query_drop(session::checks(false)).await.is_ok();
        self.conn = back.then_some(conn);
    }
}

async fn connect(
    target: &ServerUrl,
    pipeline: &str,
) -> Result<(Conn, Capabilities, Marks), TargetError> {
    let (mut conn, capabilities) = session::connect(target, false).await?;
    let settings = format!(
        "SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}, wait_timeout = {IDLE_S}, \
         sql_select_limit = 18446744073709551615"
    );
    let set = conn.query_drop(settings).await;
    set.map_err(|error| target_error("setting up a session on green", error))?;
    progress::open_lane(&mut conn, pipeline, REPAIR).await?;
    let marks = Marks::open(&mut conn, pipeline, REPAIR).await?;
    Ok((conn, capabilities, marks))
}

async fn fit(
    conn: &mut Conn,
    capabilities: &Capabilities,
    schema: Arc<TableSchema>,
) -> Result<Fitted, TargetError> {
    let now = Cascades::default();
    let green = read::table(conn, &capabilities.server, &schema.name, &now, 0).await?;
    let green = green.ok_or_else(|| missing_table(&schema))?;
    // Not what the operator accepts for the stream: a trigger would write what nobody has asked for.
    Plan::new(schema, &green, false, false).map(Fitted)
}

/// The same as [`Repairer::fit`], by a session that writes nothing.
///
/// # Errors
/// As there.
pub async fn fitted(target: &ServerUrl, schema: Arc<TableSchema>) -> Result<Fitted, TargetError> {
    let (mut conn, capabilities) = session::connect(target, false).await?;
    let fitted = fit(&mut conn, &capabilities, schema).await;
    if let Err(error) = conn.disconnect().await {
        tracing::debug!(reason = %error, "a connection to green was not closed in order");
    }
    fitted
}

fn fields(row: Row) -> Fields {
    let field = |value: Option<Value>| match value {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    };
    row.unwrap_raw().into_iter().map(field).collect()
}
