//! Pairs of sessions, one on each side, that all see the same transactions.
//!
//! A transaction keeps a metadata lock of each table that it has read: ALTER, TRUNCATE and DROP wait for its
//! end, and everybody else behind them. Both servers give such locks back at ROLLBACK TO SAVEPOINT, and keep the
//! snapshot ([`Pair::let_go`]); MariaDB only where the session writes no binlog. A table that is altered then
//! is refused to the snapshot from there on (error 1412), never shown in another state, so what is left of it
//! is read in the next one.

use std::time::Duration;

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{Conn, code};
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::side::{End, Reader};
use crate::backfill::mysql::failed;
use crate::backfill::mysql::snapshot::{self, Patience};
use crate::verify::Trouble;

/// The stream's target is not held longer than this while the sides look for a moment.
const HOLD_MAX: Duration = Duration::from_secs(3);
/// How often a moment is looked for; the pause between, in which the stream goes on, and how long it
/// grows.
const ATTEMPTS: usize = 10;
const PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// A target that is further behind is not held, in seconds: it would have to come so far within
/// [`HOLD_MAX`].
const LAG_MAX_SECONDS: f64 = 1.0;
/// How long it is waited for, and how often it is looked.
const LAG_PATIENCE: Duration = Duration::from_secs(300);
const LAG_LOOK_EVERY: Duration = Duration::from_millis(100);

/// The stream from the source to the target, as far as a verification needs it.
pub trait Stream: Send + Sync + 'static {
    /// A target that is held.
    type Held: Held;

    /// Waits until nothing is being written to the target, and lets nothing begin until what this
    /// gives is dropped. What comes from the source meanwhile waits.
    ///
    /// # Errors
    /// The stream is down, or is about to turn.
    fn hold(&self) -> impl Future<Output = Result<Self::Held, Trouble>> + Send;

    /// How far the target is behind, in seconds; `None`: unknown.
    fn lag_seconds(&self) -> Option<f64>;

    /// The stream's own sessions on the source, by their number there: they are no clients.
    fn sessions(&self) -> Vec<u32>;
}

/// A target to which nothing is written but on request. Dropping it lets the stream go on.
pub trait Held: Send {
    /// Applies exactly those transactions of `position` that the target lacks, and commits them.
    ///
    /// # Errors
    /// The stream is down.
    fn reach(
        &mut self,
        position: &BinlogPosition,
    ) -> impl Future<Output = Result<Reached, Trouble>> + Send;
}

/// Where a held target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// It has the transactions of the position, and no others.
    Exactly,
    /// It has others as well: MySQL and MariaDB send a transaction before its rows can be seen.
    Beyond,
}

/// Behind what has been read up to here no table is kept.
const MARK: &str = "SAVEPOINT cutover";
const LET_GO: &str = "ROLLBACK TO SAVEPOINT cutover";
/// What lets MariaDB give the metadata locks back.
const UNLOGGED: &str = "SET SESSION sql_log_bin = 0";
/// "Access denied; you need (at least one of) the .. privilege(s)".
const DENIED: u16 = 1227;

/// A session on each side, in snapshots of one moment.
pub(super) struct Pair {
    pub source: Reader,
    pub target: Reader,
    /// Tables that were read can be let go.
    pub lets_go: bool,
}

impl Pair {
    /// Gives back the metadata locks of all tables that were read. The snapshots stay.
    ///
    /// # Errors
    /// A server's.
    pub async fn let_go(&mut self) -> Result<(), Trouble> {
        let doing = "letting tables go";
        tokio::try_join!(self.source.run(doing, LET_GO), self.target.run(doing, LET_GO))?;
        Ok(())
    }

    async fn mark(&mut self) -> Result<(), Trouble> {
        let doing = "opening a snapshot";
        tokio::try_join!(self.source.run(doing, MARK), self.target.run(doing, MARK))?;
        Ok(())
    }
}

/// Lets sessions give back the tables that they have read. Whether they will.
async fn unlogged(end: &End, sessions: &mut [Conn]) -> Result<bool, Trouble> {
    if !end.server.is_mariadb() {
        return Ok(true);
    }
    for session in sessions {
        match session.query_drop(UNLOGGED).await {
            Ok(()) => {}
            Err(error) if code(&error) == Some(DENIED) => return Ok(false),
            Err(error) => return Err(Trouble::of(end.side, failed("opening a snapshot", error))),
        }
    }
    Ok(true)
}

/// A moment of the source at which the target is held.
pub(super) struct Moment<H> {
    /// Dropping it lets the stream go on.
    pub held: H,
    /// Sees the source as it was then.
    pub source: Reader,
    /// When the stream was stopped at the latest.
    pub since: Instant,
}

/// Opens `count` pairs; fewer, if the source allows no more (see the copy's snapshot).
pub(super) async fn open<S: Stream>(
    [source, target]: [&End; 2],
    stream: &S,
    count: usize,
) -> Result<Vec<Pair>, Trouble> {
    let found = find([source, target], stream, [count, count]).await?;
    drop(found.held);
    let reader = |conn: Conn, end: &End| Reader { conn, side: end.side };
    let lets_go = found.lets_go;
    let mut pairs = Vec::new();
    for (one, two) in found.here.into_iter().zip(found.there) {
        let (source, target) = (reader(one, source), reader(two, target));
        let mut pair = Pair { source, target, lets_go };
        pair.mark().await?;
        pairs.push(pair);
    }
    Ok(pairs)
}

/// A moment at which the target stays held, with exactly the transactions that the source's session sees.
pub(super) async fn moment<S: Stream>(
    ends: [&End; 2],
    stream: &S,
) -> Result<Moment<S::Held>, Trouble> {
    let Found { held, mut here, since, .. } = find(ends, stream, [1, 0]).await?;
    let conn = here.pop().ok_or_else(|| Trouble::unexpected(ends[0].side, "no session"))?;
    Ok(Moment { held, source: Reader { conn, side: ends[0].side }, since })
}

/// Sessions of both sides that see one moment, and the target held there.
struct Found<H> {
    held: H,
    here: Vec<Conn>,
    there: Vec<Conn>,
    lets_go: bool,
    since: Instant,
}

/// Looks for a moment of so many sessions on each side.
async fn find<S: Stream>(
    [source, target]: [&End; 2],
    stream: &S,
    [count, count_there]: [usize; 2],
) -> Result<Found<S::Held>, Trouble> {
    near(source, stream).await?;
    let (mut last, [mut pause, longest]) = (None, PAUSE);
    for _ in 0..ATTEMPTS {
        let connect = async |end: &End, count: usize| match count {
            0 => Ok(Vec::new()),
            count => {
                let sessions = snapshot::connect(&end.url, &end.server, count).await;
                sessions.map_err(|error| Trouble::of(end.side, error))
            }
        };
        let (mut here, mut there) =
            tokio::try_join!(connect(source, count), connect(target, count_there))?;
        let lets_go = tokio::try_join!(unlogged(source, &mut here), unlogged(target, &mut there))?;
        let lets_go = lets_go.0 && lets_go.1;
        let holding = held([source, target], stream, here, there);
        // A hold that takes too long ends here: dropping it lets the stream go on.
        match tokio::time::timeout(HOLD_MAX, holding).await {
            Ok(Ok(Some(found))) => return Ok(Found { lets_go, ..found }),
            Ok(Err(trouble)) if !trouble.is_transient => return Err(trouble),
            Ok(Err(trouble)) => last = Some(trouble),
            Ok(Ok(None)) | Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(longest);
    }
    Err(last.unwrap_or_else(|| Trouble {
        is_transient: true,
        ..Trouble::new(
            source.side,
            "no moment was found at which both sides could be seen: it is too busy, or statements \
             run there that are longer than a second",
        )
    }))
}

/// Waits until the target is not far behind.
async fn near<S: Stream>(source: &End, stream: &S) -> Result<(), Trouble> {
    let near = async {
        while stream.lag_seconds().is_none_or(|lag| lag > LAG_MAX_SECONDS) {
            tokio::time::sleep(LAG_LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(LAG_PATIENCE, near).await.map_err(|_| Trouble {
        is_transient: true,
        ..Trouble::new(source.side, "the stream from there is too far behind for a comparison")
    })
}

async fn held<S: Stream>(
    [source, target]: [&End; 2],
    stream: &S,
    here: Vec<Conn>,
    mut there: Vec<Conn>,
) -> Result<Option<Found<S::Held>>, Trouble> {
    let mut held = stream.hold().await?;
    let since = Instant::now();
    let once = Patience::Once;
    let moment = snapshot::at_one_moment(&source.url, &source.server, here, once).await;
    let moment = moment.map_err(|error| Trouble::of(source.side, error))?;
    if held.reach(&moment.position).await? == Reached::Beyond {
        return Ok(None);
    }
    there.truncate(moment.readers.len());
    let begun = snapshot::begin(&mut there).await;
    begun.map_err(|error| Trouble::of(target.side, error))?;
    tracing::debug!(position = %moment.position, "both sides are seen");
    Ok(Some(Found { held, here: moment.readers, there, lets_go: false, since }))
}
