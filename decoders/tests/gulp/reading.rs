//! Opening a reader, and reading it to its end.

use decoders::postgres::gulp::{GulpOptions, GulpStream, OpenError};
use decoders::{Lsn, Position, Source, SourceEvent, Transaction};

use crate::stage::{DEADLINE, Stage, table};

/// Everything that a reader gave before it handed over.
#[derive(Debug, Default)]
pub struct Read {
    pub transactions: Vec<Transaction>,
    /// The positions that it reported.
    pub idle: Vec<Lsn>,
}

impl Read {
    /// Where each transaction ends.
    pub fn ends(&self) -> Vec<Lsn> {
        self.transactions.iter().filter_map(|transaction| transaction.end_lsn).collect()
    }
}

pub fn options(stage: &Stage, start: Option<Lsn>) -> GulpOptions {
    let mut options = GulpOptions::new(stage.options());
    options.stream.start = start;
    options
}

pub async fn open(stage: &Stage, options: GulpOptions) -> Result<GulpStream, OpenError> {
    tokio::time::timeout(DEADLINE, GulpStream::open(&stage.info, options)).await.unwrap()
}

pub async fn reader(stage: &Stage, start: Option<Lsn>) -> GulpStream {
    open(stage, options(stage, start)).await.unwrap()
}

/// Reads until the hand-over.
pub async fn read_all(reader: &mut GulpStream) -> Read {
    let mut read = Read::default();
    loop {
        match tokio::time::timeout(DEADLINE, reader.next()).await.unwrap().unwrap() {
            SourceEvent::Transaction(transaction) => read.transactions.push(transaction),
            SourceEvent::Idle(Position::Lsn(lsn)) => read.idle.push(lsn),
            SourceEvent::Handover => return read,
        }
    }
}

/// A table `t (id int, v text)` that is published, and a slot.
pub async fn with_table(stage: Stage) -> Stage {
    stage
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE unpublished (id int)")
        .await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    stage
}

/// One transaction for each of so many ids behind `first`, 3 messages each.
pub async fn many(stage: &Stage, first: u32, count: u32) {
    stage
        .sql(&format!(
            "DO $$ BEGIN FOR i IN {first}..{} LOOP
                 INSERT INTO public.t VALUES (i, 'x'); COMMIT;
             END LOOP; END $$",
            first + count - 1
        ))
        .await;
}
