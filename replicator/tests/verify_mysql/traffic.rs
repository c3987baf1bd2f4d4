//! Verification while somebody writes: nothing is found that is none, and what is damaged is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cutover::Side;
use cutover::verify::{Mode, Verdict};
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Conn, ServerUrl};
use mysql_async::prelude::Queryable;
use replicator::verify::Trouble;
use replicator::verify::mysql::{Held, Reached, Stream};
use tests::mysql::Mysql;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, watch};
use tokio::task::JoinHandle;

use super::servers::{pair, url};
use super::support::{EXACT, PAIRS, copy, found, is_equal, request, verification};

const FILL: &str = "
create database w; use w;
create table account (id int primary key, balance bigint not null, pad varchar(200) character set utf8mb4, key (balance));
insert into account with recursive s (n) as (select 1 union all select n + 1 from s where n < 900)
  select n, 1000, repeat('x', 150) from s;
insert into account select id + 900, 1000, pad from account; insert into account select id + 1800, 1000, pad from account;
create table log (id bigint auto_increment primary key, payer int, payee int, amount int);
create table loose (payer int, amount int);
";

/// Transactions that have to be written while verifications of one kind run, in several slices each,
/// and how many of these may be needed for it.
const WRITTEN_BESIDE: u64 = 30;
const ROUNDS_MAX: u32 = 200;
/// Transactions that green may be behind.
const BEHIND_MAX: usize = 50;

/// A replication of statements: what was done on blue is done on green, each with the position that
/// blue had reached by it.
struct Follower {
    green: Arc<AsyncMutex<Conn>>,
    queue: Arc<Mutex<VecDeque<(BinlogPosition, String)>>>,
    applied: Arc<Mutex<BinlogPosition>>,
    moments: Arc<AtomicU64>,
    /// Transactions that blue has committed.
    written: Arc<AtomicU64>,
    /// For what blue commits and green does not have: a stream that is far behind can't be held at a moment.
    room: Arc<Semaphore>,
}

impl Clone for Follower {
    fn clone(&self) -> Self {
        Self {
            green: Arc::clone(&self.green),
            queue: Arc::clone(&self.queue),
            applied: Arc::clone(&self.applied),
            moments: Arc::clone(&self.moments),
            written: Arc::clone(&self.written),
            room: Arc::clone(&self.room),
        }
    }
}

impl Follower {
    /// Applies the oldest transaction that waits. Whether there was one.
    async fn apply(&self, green: &mut Conn) -> Result<bool, mysql_async::Error> {
        let next = self.queue.lock().unwrap().pop_front();
        let Some((position, sql)) = next else { return Ok(false) };
        green.query_drop(sql).await?;
        *self.applied.lock().unwrap() = position;
        self.room.add_permits(1);
        Ok(true)
    }

    async fn follow(self, stop: Arc<AtomicBool>) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let mut green = self.green.lock().await;
            let was_busy = self.apply(&mut green).await?;
            drop(green);
            if !was_busy {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }
}

/// Who holds green's only session; without it while a transaction is applied in it.
struct Holding(Follower, Option<OwnedMutexGuard<Conn>>);

impl Stream for Follower {
    type Held = Holding;

    async fn hold(&self) -> Result<Holding, Trouble> {
        let green = Arc::clone(&self.green).lock_owned().await;
        self.moments.fetch_add(1, Ordering::Relaxed);
        Ok(Holding(self.clone(), Some(green)))
    }

    fn lag_seconds(&self) -> Option<f64> {
        Some(0.0)
    }

    fn sessions(&self) -> Vec<u32> {
        Vec::new()
    }
}

impl Held for Holding {
    async fn reach(&mut self, position: &BinlogPosition) -> Result<Reached, Trouble> {
        let Holding(follower, green) = self;
        loop {
            let applied = follower.applied.lock().unwrap().clone();
            if applied == *position {
                return Ok(Reached::Exactly);
            }
            if !position.covers(&applied) {
                return Ok(Reached::Beyond);
            }
            // Whoever waits for this may give up, as a busy machine makes it: what has begun goes on all the
            // same, and so does the session.
            let failed = |why: String| Trouble::new(Side::Green, why);
            let mut session = green.take().ok_or_else(|| failed("held no more".into()))?;
            let applying = follower.clone();
            let applied = tokio::spawn(async move {
                let did = applying.apply(&mut session).await;
                (session, did)
            });
            let (session, did) = applied.await.map_err(|error| failed(error.to_string()))?;
            *green = Some(session);
            // Blue has it; its writer is about to say so.
            if !did.map_err(|error| failed(error.to_string()))? {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    }
}

async fn position(conn: &mut Conn, is_mariadb: bool) -> Result<BinlogPosition> {
    let sql = match is_mariadb {
        true => "select @@gtid_binlog_pos",
        false => "select replace(@@global.gtid_executed, '\\n', '')",
    };
    let text: Option<String> = conn.query_first(sql).await?;
    Ok(text.context("a position")?.parse()?)
}

/// Moves money from account to account, adds and removes rows, one transaction after the other.
async fn write(
    blue: ServerUrl,
    is_mariadb: bool,
    follower: Follower,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let mut conn = server::connect(&blue).await?;
    let (mut number, mut count) = (7_u64, 1);
    while !stop.load(Ordering::Relaxed) {
        let Ok(room) = follower.room.acquire().await else { break };
        room.forget();
        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (payer, payee, amount) =
            (1 + (number >> 33) % 3600, 1 + (number >> 20) % 3600, (number >> 40) % 100);
        let sql = format!(
            "begin; update w.account set balance = balance - {amount} where id = {payer};
             update w.account set balance = balance + {amount} where id = {payee};
             insert into w.log (id, payer, payee, amount) values ({count}, {payer}, {payee}, {amount});
             delete from w.log where id = {count} - 500;
             insert into w.loose values ({payer}, {amount}); commit"
        );
        conn.query_drop(&sql).await?;
        let reached = position(&mut conn, is_mariadb).await?;
        follower.queue.lock().unwrap().push_back((reached, sql));
        follower.written.fetch_add(1, Ordering::Relaxed);
        count += 1;
    }
    Ok(count)
}

async fn traffic(
    blue: &Mysql,
    green: &Mysql,
) -> Result<(Follower, Arc<AtomicBool>, JoinHandle<Result<u64>>, JoinHandle<Result<()>>)> {
    let is_mariadb = blue.version().is_mariadb();
    let mut conn = server::connect(&url(blue)).await?;
    let follower = Follower {
        green: Arc::new(AsyncMutex::new(server::connect(&url(green)).await?)),
        queue: Arc::default(),
        applied: Arc::new(Mutex::new(position(&mut conn, is_mariadb).await?)),
        moments: Arc::default(),
        written: Arc::default(),
        room: Arc::new(Semaphore::new(BEHIND_MAX)),
    };
    conn.disconnect().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(url(blue), is_mariadb, follower.clone(), Arc::clone(&stop)));
    let applier = tokio::spawn(follower.clone().follow(Arc::clone(&stop)));
    Ok((follower, stop, writer, applier))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_while_rows_move_but_what_is_damaged() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run(FILL)?;
        copy(&blue, &green).await?;
        let (follower, stop, writer, applier) = traffic(&blue, &green).await?;
        let (_going, going) = watch::channel(false);
        for is_damaged in [false, true] {
            if is_damaged {
                green.run("update w.account set pad = concat(pad, ' ') where id = 1234; insert into w.loose values (-1, -1)")?;
            }
            for mode in EXACT {
                let place = || format!("{versions:?} {mode:?} {is_damaged}");
                let (mut beside, mut rounds) = (0, 0);
                // However slow the disk is that the writer waits for.
                while beside < WRITTEN_BESIDE {
                    ensure!(rounds < ROUNDS_MAX, "{}: only {beside} written beside it", place());
                    rounds += 1;
                    follower.moments.store(0, Ordering::Relaxed);
                    let asked = cutover::verify::VerifyRequest { rows_only: true, ..request(mode) };
                    let mut run = verification(&blue, &green, asked, follower.clone());
                    // One chunk or two in each slice.
                    run.slice = Duration::from_millis(10);
                    let before = follower.written.load(Ordering::Relaxed);
                    let report = run.run(going.clone()).await?;
                    let written = follower.written.load(Ordering::Relaxed) - before;
                    // One that saw everything at once shows little.
                    if follower.moments.load(Ordering::Relaxed) > 2 {
                        beside += written;
                    }
                    if is_damaged {
                        ensure!(report.verdict == Verdict::Different && report.differences == 2);
                        let account = found(&report, "account");
                        assert_eq!(account, ["different [1234] pad 1:1"], "{}", place());
                        assert_eq!(found(&report, "loose"), ["extra []  0:1"], "{}", place());
                    } else {
                        is_equal(&report).with_context(place)?;
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        follower.room.close();
        ensure!(writer.await?? > 100, "hardly anything was written");
        applier.await??;
    }
    Ok(())
}

/// Chunks that were finished are not read again; what a verification was broken off in is.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_goes_on_where_it_was() -> Result<()> {
    let (blue, green) = pair(PAIRS[0])?;
    blue.run(FILL)?;
    copy(&blue, &green).await?;
    green.run(
        "update w.account set balance = 1 where id = 150; delete from w.account where id = 3500",
    )?;
    let run = |before| {
        let (finished, chunks) = tokio::sync::mpsc::unbounded_channel();
        let mut run = verification(&blue, &green, request(Mode::Checksum), super::support::Still);
        (run.finished, run.before) = (Some(finished), before);
        (run, chunks)
    };
    let (_going, going) = watch::channel(false);
    let (first, mut chunks) = run(Vec::new());
    let whole = first.run(going.clone()).await?;
    let mut before = Vec::new();
    while let Ok(chunk) = chunks.try_recv() {
        before.push(chunk);
    }
    let of_account = before.iter().filter(|chunk| chunk.table.contains("account")).count();
    ensure!(of_account > 30);
    // A crash: some of them were under way, the last ones not begun.
    before.retain(|chunk| {
        !chunk.table.contains("account") || ![5, 6].contains(&chunk.number) && chunk.number < 20
    });
    let kept = before.len() as u64;
    let (second, _chunks) = run(before);
    let resumed = second.run(going).await?;
    let account = |report: &cutover::verify::VerifyReport| {
        report
            .tables
            .iter()
            .find(|table| table.table.contains("account"))
            .cloned()
            .expect("the table")
    };
    let (one, two) = (account(&whole), account(&resumed));
    assert_eq!((one.rows, one.differing(), one.chunks), (3600, 2, one.chunks_in_all));
    assert_eq!((two.rows, &two.differences), (one.rows, &one.differences));
    let restored: u64 = resumed.tables.iter().map(|table| table.chunks_before).sum();
    assert_eq!((restored, two.chunks_before), (kept, 18));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_proves_nothing() -> Result<()> {
    let (blue, green) = pair(PAIRS[1])?;
    blue.run(FILL)?;
    copy(&blue, &green).await?;
    let (sender, stop) = watch::channel(false);
    let asked =
        cutover::verify::VerifyRequest { rows_per_second: Some(500), ..request(Mode::Checksum) };
    let run = verification(&blue, &green, asked, super::support::Still);
    let mut progress = run.progress.subscribe();
    let running = tokio::spawn(run.run(stop));
    progress.wait_for(|progress| progress.rows_done > 0).await?;
    sender.send_replace(true);
    let report = running.await??;
    ensure!(report.stopped && report.verdict == Verdict::Incomplete, "{report:?}");
    Ok(())
}
