//! A workload that knows what was acknowledged, and the judge of whether all of it is there.
//!
//! Clients transfer money between accounts; each transaction also writes an entry with an id of
//! its own, `(client, seq)`, that is never used again. What the client was told is noted:
//!
//! - *acknowledged*: the answer to COMMIT arrived. Must be there exactly once.
//! - *indeterminate*: the connection was lost after COMMIT was sent. May be there once.
//! - *refused*: an error before COMMIT was sent, or in place of its answer. Must not be there.
//!
//! Nothing is ever retried, so any other row is a row that somebody invented.

mod check;
mod client;
mod record;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio_postgres::Client;

pub use check::LedgerReport;
pub use record::Record;

use crate::postgres::describe;

/// What an account holds at the start.
pub const INITIAL_BALANCE: i64 = 1_000;

/// What the workload does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients connect: the router.
    pub url: String,
    pub clients: u32,
    /// Transactions per second, of all clients together.
    pub rate: u32,
    pub accounts: u32,
    /// Every acknowledged id is appended here, for a look after a failure.
    pub log: Option<PathBuf>,
}

impl Options {
    pub fn new(url: String) -> Options {
        Options { url, clients: 8, rate: 200, accounts: 100, log: None }
    }
}

/// Creates the tables and the accounts. The caller's role owns them.
///
/// The key of `entries` comes from a sequence: a cutover that forgets sequences makes clients fail.
/// `(client, seq)` is deliberately not unique in the database, or a duplicate could not be found.
pub async fn prepare(client: &Client, accounts: u32) -> Result<()> {
    let sql = format!(
        "CREATE SCHEMA ledger;
         CREATE TABLE ledger.accounts (id int PRIMARY KEY, balance bigint NOT NULL);
         CREATE TABLE ledger.entries (
             id bigserial PRIMARY KEY,
             client int NOT NULL,
             seq bigint NOT NULL,
             from_account int NOT NULL REFERENCES ledger.accounts,
             to_account int NOT NULL REFERENCES ledger.accounts,
             amount bigint NOT NULL,
             at timestamptz NOT NULL DEFAULT now());
         CREATE INDEX ON ledger.entries (client, seq);
         INSERT INTO ledger.accounts SELECT n, {INITIAL_BALANCE} FROM generate_series(1, {accounts}) n;"
    );
    client.batch_execute(&sql).await.map_err(|error| describe(&error))
}

/// A running workload, in a thread of its own: a test that blocks does not look like a pause of
/// the database.
#[derive(Debug)]
pub struct Ledger {
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Ledger {
    /// Starts the clients.
    pub fn start(options: Options) -> Result<Ledger> {
        let record = Arc::new(Record::new(options.accounts, options.log.as_deref())?);
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_record, thread_stop) = (Arc::clone(&record), Arc::clone(&stop));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || {
            runtime.block_on(client::run_all(&options, &thread_record, &thread_stop))
        })?;
        Ok(Ledger { record, stop, thread: Some(thread) })
    }

    /// What is known so far; counts move on while the workload runs.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Waits until this many more writes are acknowledged from now on.
    pub async fn more_acknowledged(&self, count: usize, deadline: Duration) -> Result<()> {
        let goal = self.record.acknowledged() + count;
        let what = format!("{count} more acknowledged writes");
        crate::wait::until(&what, deadline, || async {
            Ok((self.record.acknowledged() >= goal).then_some(()))
        })
        .await
        .with_context(|| self.record.last_error().unwrap_or_default())
    }

    /// Lets every client finish its transaction, and stops.
    pub fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("the ledger's thread panicked"))?,
            None => Ok(()),
        }
    }

    /// Stops and judges the database behind this URL.
    pub async fn check(&mut self, url: &str) -> Result<LedgerReport> {
        self.stop()?;
        check::check(&self.record, url).await
    }

    /// The longest time between two acknowledged commits, in the part of the run from `since` on:
    /// the write pause as clients see it.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        self.record.longest_gap(since)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("the ledger workload failed: {error:#}");
        }
    }
}
