//! Rows in bulk: the backfill's COPY data, piped through as it came.

use std::pin::Pin;

use bytes::Bytes;
use decoders::change::QualifiedName;
use decoders::postgres::catalog::quote_ident;
use futures_util::SinkExt;
use tokio_postgres::{Client, CopyInSink};

use super::error::target_error;
use crate::target::TargetError;

/// How rows are copied in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopyOptions {
    /// The data is in COPY's binary format, else in its text format.
    pub binary: bool,
    /// Write rows as already frozen where possible: no later VACUUM has to. The table must be
    /// empty and this COPY be all that comes into it; it is locked until the end.
    pub freeze: bool,
}

/// A COPY that runs. Dropped before [`CopyIn::finish`], nothing of it stays.
pub struct CopyIn<'a> {
    client: &'a Client,
    table: QualifiedName,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    /// Whether rows are written frozen, in a transaction of their own.
    frozen: bool,
}

/// Begins `COPY table (columns) FROM STDIN`. The session should be set up
/// ([`set_up`](super::session::set_up)), and must not be used for anything else until the end.
///
/// With `freeze` a transaction is opened here and committed by [`CopyIn::finish`]; where freezing
/// is not possible (rows are there already, foreign keys refer to the table, it is partitioned),
/// rows are copied plainly.
pub async fn copy_in<'a>(
    client: &'a Client,
    table: &QualifiedName,
    columns: &[String],
    options: CopyOptions,
) -> Result<CopyIn<'a>, TargetError> {
    let fail = |e| target_error(&format!("beginning COPY into {table} on green"), &e);
    let prepared = |e| target_error(&format!("preparing {table} on green for COPY FREEZE"), &e);
    let frozen = options.freeze && begin_frozen(client, table).await.map_err(prepared)?;
    let quoted: Vec<String> = columns.iter().map(|name| quote_ident(name)).collect();
    let list = match quoted.is_empty() {
        true => String::new(),
        false => format!(" ({})", quoted.join(", ")),
    };
    let format = if options.binary { "binary" } else { "text" };
    let freeze = if frozen { ", FREEZE" } else { "" };
    let sql = format!("COPY {table}{list} FROM STDIN (FORMAT {format}{freeze})");
    let sink = client.copy_in(&sql).await.map_err(fail)?;
    Ok(CopyIn { client, table: table.clone(), sink: Box::pin(sink), frozen })
}

/// Opens a transaction in which COPY may freeze: one that truncated the table (PostgreSQL manual,
/// COPY). Only a table that is empty under our lock is truncated. False: no transaction is open.
///
/// # Errors
/// What green said; the transaction is then open and of no more use.
pub async fn begin_frozen(
    client: &Client,
    table: &QualifiedName,
) -> Result<bool, tokio_postgres::Error> {
    const PLAIN: &str = "SELECT relkind = 'r' AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits
                   WHERE inhparent = c.oid)
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
                 WHERE nspname = $1 AND relname = $2";
    let row = client.query_opt(PLAIN, &[&table.schema, &table.name]).await?;
    if !row.is_some_and(|row| row.get(0)) {
        return Ok(false);
    }
    // feature_not_supported: a foreign key refers to the table. insufficient_privilege: rows may be
    // inserted, and no more.
    let is_refused = |error: &tokio_postgres::Error| {
        error.code().is_some_and(|code| matches!(code.code(), "0A000" | "42501"))
    };
    let lock = format!("BEGIN; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE");
    let possible = match client.batch_execute(&lock).await {
        Err(error) if is_refused(&error) => false,
        Err(error) => return Err(error),
        Ok(()) => {
            let empty = format!("SELECT NOT EXISTS (SELECT FROM ONLY {table})");
            let is_empty: bool = client.query_one(&empty, &[]).await?.get(0);
            let truncate = format!("TRUNCATE TABLE ONLY {table}");
            match is_empty {
                false => false,
                true => match client.batch_execute(&truncate).await {
                    Ok(()) => true,
                    Err(error) if is_refused(&error) => false,
                    Err(error) => return Err(error),
                },
            }
        }
    };
    if !possible {
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(possible)
}

impl CopyIn<'_> {
    /// Whether rows are written frozen.
    pub fn frozen(&self) -> bool {
        self.frozen
    }

    /// Passes on a piece of the data; pieces need not end where rows do. Waits while green is slow.
    pub async fn send(&mut self, data: Bytes) -> Result<(), TargetError> {
        let sent = self.sink.send(data).await;
        sent.map_err(|e| target_error(&format!("COPY into {} on green", self.table), &e))
    }

    /// Ends the COPY and commits it; gives the number of rows. An error of green's, wherever in
    /// the data it arose, shows here at the latest.
    pub async fn finish(mut self) -> Result<u64, TargetError> {
        let fail = |e| target_error(&format!("COPY into {} on green", self.table), &e);
        let rows = self.sink.as_mut().finish().await.map_err(fail)?;
        if self.frozen {
            self.client.batch_execute("COMMIT").await.map_err(fail)?;
        }
        Ok(rows)
    }
}
