//! One worker: a session of the snapshot on blue, a session on green.

use std::sync::Arc;

use decoders::mysql::catalog::TableInfo;
use decoders::mysql::server::{self, Conn, ServerUrl};
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use tokio::sync::mpsc;

use super::chunks::{chunk_rows, cut_key};
use super::columns::columns;
use super::insert::{self, Batch, Inserts};
use super::marks::{self, Mark, Range};
use super::turn::Epoch;
use super::{failed, of_source};
use crate::backfill::BackfillError;
use crate::backfill::throttle::Throttle;
use crate::schema::mysql::qualified;

/// Statements that wait for green, beside the one being written and the one being collected.
const BATCHES_WAITING: usize = 2;
/// How often a chunk is tried that met a lock on green.
const ATTEMPTS: usize = 5;

pub(super) struct Worker {
    pub(super) blue: Conn,
    pub(super) green: Conn,
    epoch: Epoch,
    throttle: Arc<Throttle>,
}

impl Worker {
    pub(super) async fn open(
        blue: Conn,
        green: &ServerUrl,
        epoch: &Epoch,
        throttle: Arc<Throttle>,
    ) -> Result<Self, BackfillError> {
        let mut green = server::connect(green).await.map_err(of_source)?;
        insert::prepare(&mut green).await?;
        Ok(Self { blue, green, epoch: epoch.clone(), throttle })
    }

    /// Finds the chunks of a table behind those that are known, notes each and passes it on.
    pub(super) async fn cut(
        &mut self,
        table: &TableInfo,
        known: &[Mark],
        chunk_bytes: u64,
        mut found: impl FnMut(Mark),
    ) -> Result<(), BackfillError> {
        let mut range = Range::default();
        let mut chunk = 0;
        if let Some(last) = known.last() {
            if last.range.up_to.is_none() {
                return Ok(());
            }
            range.above.clone_from(&last.range.up_to);
            chunk = last.chunk + 1;
        }
        let key = cut_key(table);
        loop {
            range.up_to = match &key {
                Some(key) => {
                    let above = range.above.as_ref();
                    let rows = chunk_rows(table, chunk_bytes);
                    key.next_bound(&mut self.blue, table, above, rows).await?
                }
                None => None,
            };
            marks::plan(&mut self.green, self.epoch.notes(), &table.name, chunk, &range).await?;
            found(Mark { chunk, range: range.clone(), is_done: false, rows: 0, bytes: 0 });
            match range.up_to.take() {
                None => return Ok(()),
                bound => range.above = bound,
            }
            chunk += 1;
        }
    }

    /// Copies a chunk; its rows and its mark are one transaction of green. Gives back rows and bytes.
    ///
    /// `is_used`: green may have rows of it, which are not to stay.
    pub(super) async fn copy(
        &mut self,
        table: &TableInfo,
        mark: &Mark,
        is_used: bool,
    ) -> Result<(u64, u64), BackfillError> {
        let mut attempt = 1;
        loop {
            match self.attempt(table, mark, is_used).await {
                Err(error) if error.is_retryable() && attempt < ATTEMPTS => {
                    attempt += 1;
                    // A lost connection says so again; a deadlock has undone everything already.
                    if self.green.query_drop("ROLLBACK").await.is_err() {
                        return Err(error);
                    }
                    tracing::debug!(%error, table = %table.name, attempt, "a chunk is copied again");
                }
                copied => return copied,
            }
        }
    }

    async fn attempt(
        &mut self,
        table: &TableInfo,
        mark: &Mark,
        is_used: bool,
    ) -> Result<(u64, u64), BackfillError> {
        let key = cut_key(table);
        let condition =
            key.as_ref().map_or_else(|| "TRUE".to_owned(), |key| key.condition(&mark.range));
        let order = key.map(|key| key.order()).unwrap_or_default();
        let (rows, bytes) = self.transfer(table, &condition, &order, is_used).await?;
        marks::done(&mut self.green, self.epoch.notes(), &table.name, mark.chunk, rows, bytes)
            .await?;
        self.commit(table).await?;
        Ok((rows, bytes))
    }

    /// Makes the rows of a condition on green what they are in the snapshot.
    pub(super) async fn rewrite(
        &mut self,
        table: &TableInfo,
        condition: &str,
    ) -> Result<(), BackfillError> {
        self.transfer(table, condition, "", true).await?;
        self.commit(table).await
    }

    /// Undoes what was not committed on green.
    pub(super) async fn roll_back(&mut self) -> Result<(), BackfillError> {
        let undone = self.green.query_drop("ROLLBACK").await;
        undone.map_err(|error| failed("rolling back on green", error))
    }

    async fn commit(&mut self, table: &TableInfo) -> Result<(), BackfillError> {
        let committed = self.green.query_drop("COMMIT").await;
        committed.map_err(|error| failed(format!("copying {} to green", table.name), error))
    }

    /// Writes the rows of a condition in a transaction that stays open.
    async fn transfer(
        &mut self,
        table: &TableInfo,
        condition: &str,
        order: &str,
        is_used: bool,
    ) -> Result<(u64, u64), BackfillError> {
        let name = &table.name;
        let columns = columns(table);
        let selected: Vec<&str> = columns.iter().map(|column| column.select.as_str()).collect();
        let select = format!(
            "SELECT {} FROM {} WHERE {condition}{order}",
            selected.join(", "),
            qualified(name)
        );
        let inserts = Inserts::new(table, columns);
        let wrong = |error| failed(format!("copying {name} to green"), error);
        self.epoch.begin(&mut self.green).await?;
        if is_used {
            let delete = format!("DELETE FROM {} WHERE {condition}", qualified(name));
            self.green.query_drop(delete).await.map_err(wrong)?;
        }
        let (sender, batches) = mpsc::channel(BATCHES_WAITING);
        let reading = read(&mut self.blue, table, &select, &inserts, sender);
        let writing = write(&mut self.green, &inserts, &self.throttle, batches);
        let (read_rows, (rows, bytes)) = tokio::try_join!(reading, writing)?;
        if read_rows != rows {
            return Err(BackfillError::halt(
                format!("{name}: {read_rows} rows were read and {rows} written"),
                "this is a defect; please report it",
            ));
        }
        Ok((rows, bytes))
    }
}

/// Reads rows and passes them on in batches. Gives back how many.
async fn read(
    blue: &mut Conn,
    table: &TableInfo,
    select: &str,
    inserts: &Inserts,
    sender: mpsc::Sender<Batch>,
) -> Result<u64, BackfillError> {
    let wrong = |error| failed(format!("reading {} on blue", table.name), error);
    // Who writes has failed if it does not listen, and its error is the one that counts.
    let deaf = || BackfillError::retry("green takes no more rows");
    let mut result = blue.query_iter(select).await.map_err(wrong)?;
    let mut batch = inserts.batch();
    let mut rows = 0;
    while let Some(row) = result.next().await.map_err(wrong)? {
        rows += 1;
        if let Some(full) = inserts.add(&mut batch, values(row)) {
            sender.send(full).await.map_err(|_| deaf())?;
        }
    }
    drop(result);
    if !batch.is_empty() {
        sender.send(batch).await.map_err(|_| deaf())?;
    }
    Ok(rows)
}

fn values(row: Row) -> Vec<Value> {
    row.unwrap_raw().into_iter().map(|value| value.unwrap_or(Value::NULL)).collect()
}

async fn write(
    green: &mut Conn,
    inserts: &Inserts,
    throttle: &Throttle,
    mut batches: mpsc::Receiver<Batch>,
) -> Result<(u64, u64), BackfillError> {
    let (mut rows, mut bytes) = (0, 0);
    while let Some(batch) = batches.recv().await {
        rows += batch.rows();
        bytes += batch.bytes();
        throttle.pass(usize::try_from(batch.bytes()).unwrap_or(usize::MAX)).await;
        inserts.send(green, batch).await?;
    }
    Ok((rows, bytes))
}
