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
mod crowd;
pub mod mysql;
mod postgres;
mod record;
mod session;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

pub use check::LedgerReport;
pub use client::RECONNECT;
pub use postgres::prepare;
pub use record::{Noticed, Record};
pub use transfer::Random;

use crowd::Crowd;

/// What an account holds at the start.
pub const INITIAL_BALANCE: i64 = 1_000;

/// Transactions per second of a workload that says nothing else: each write costs
/// the repetition on green too, and most tests only need clients that notice a mistake.
const RATE: u32 = 80;

/// What the workload does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients connect: the router. `postgres://`, or `mysql://` also for
    /// MariaDB.
    pub url: String,
    pub clients: u32,
    /// Transactions per second, of all clients together.
    pub rate: u32,
    pub accounts: u32,
    /// Every acknowledged id is appended here, for a look after a failure.
    pub log: Option<PathBuf>,
    /// One more client each that connects to a server itself, past the router, once
    /// [`Ledger::admit`] lets it. It is refused, cut off and read-only most of the time; what it is
    /// acknowledged counts as everybody else's.
    pub direct: Vec<String>,
}

impl Options {
    pub fn new(url: String) -> Options {
        Options { url, clients: 8, rate: RATE, accounts: 100, log: None, direct: Vec::new() }
    }
}

/// A running workload, in a thread of its own: a test that blocks does not look like a pause of
/// the database.
#[derive(Debug)]
pub struct Ledger {
    record: Arc<Record>,
    crowd: Arc<Crowd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Ledger {
    /// Starts the clients.
    pub fn start(options: Options) -> Result<Ledger> {
        let record = Arc::new(Record::new(options.accounts, options.log.as_deref())?);
        let crowd = Arc::new(Crowd::new(options.clients as usize, options.direct.len()));
        let (thread_record, thread_crowd) = (Arc::clone(&record), Arc::clone(&crowd));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let (record, crowd) = (&thread_record, &thread_crowd);
            runtime.block_on(async {
                match is_mysql(&options.url) {
                    true => client::run_all::<mysql_async::Conn>(&options, record, crowd).await,
                    false => {
                        client::run_all::<tokio_postgres::Client>(&options, record, crowd).await
                    }
                }
            })
        })?;
        Ok(Ledger { record, crowd, thread: Some(thread) })
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

    /// Lets this client of [`Options::direct`] begin, or keeps it from going on.
    pub fn admit(&self, direct: usize, admitted: bool) {
        self.crowd.admit(direct, admitted);
    }

    /// Waits until every client is between two transactions, and keeps them there until
    /// [`Ledger::go_on`]. They keep their connections. A client that waits for an answer keeps
    /// everybody waiting.
    pub async fn rest(&self, deadline: Duration) -> Result<()> {
        self.crowd.rest(true);
        crate::wait::until("every client to come to rest", deadline, || async {
            Ok(self.crowd.rests().then_some(()))
        })
        .await
    }

    /// Ends a rest.
    pub fn go_on(&self) {
        self.crowd.rest(false);
    }

    /// Judges the database behind this URL while the clients rest.
    pub async fn check_resting(&self, url: &str) -> Result<LedgerReport> {
        anyhow::ensure!(self.crowd.rests(), "the clients of the ledger do not rest");
        check::check(&self.record, url).await
    }

    /// Lets every client finish its transaction, and stops.
    pub fn stop(&mut self) -> Result<()> {
        self.crowd.stop();
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

/// Whether this URL leads to a MySQL or MariaDB.
fn is_mysql(url: &str) -> bool {
    url.starts_with("mysql://")
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("the ledger workload failed: {error:#}");
        }
    }
}
