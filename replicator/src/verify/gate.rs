//! Lets chunks be read for a share of the time while clients of blue work, one at a time, and all the
//! time while none does.
//!
//! What a client feels is the worst moment, not the sum: so while somebody works there is never more
//! than one statement of ours on blue, it is a short one, and moments of reading are short, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cutover::verify::{HeldBy, Limit};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::governor::{ASK_QUIET, ASK_READING, Governor, LAG, LEAST};
use super::reader::Trouble;

/// How long chunks may begin before there is a pause.
const OPEN: Duration = Duration::from_millis(10);
/// No pause is longer: a table without a key is read in one piece, which may have taken minutes.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether clients work.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What is learned of a quiet blue before the first chunk, if clients work.
const LEARN: Duration = Duration::from_secs(1);

/// A session on the side that clients work on.
pub(super) trait Watch: Send {
    /// Asks the simplest question.
    fn ask(&mut self) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// How many sessions that are not ours have done something in the last second.
    fn clients(&mut self) -> impl Future<Output = Result<u64, Trouble>> + Send;

    /// The stream's lag in seconds; `None`: unknown.
    fn lag_seconds(&self) -> Option<f64>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Closed,
    OneByOne,
    Free,
}

/// Where chunks wait until they may be read.
pub(super) struct Gate {
    entry: watch::Sender<Entry>,
    /// Whose turn it is, one by one.
    turn: Semaphore,
    reading: AtomicU64,
    /// How many have ever entered.
    entered: AtomicU64,
    limit: Mutex<Limit>,
}

/// Leave to read a chunk, until it is dropped.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    turn: Option<SemaphorePermit<'a>>,
}

impl Pass<'_> {
    /// Clients work: what is read now has to be short.
    pub fn is_sparing(&self) -> bool {
        self.turn.is_some()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.reading.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Closed until somebody governs it; or open for good.
    pub fn new(is_limited: bool) -> Self {
        Self {
            entry: watch::Sender::new(if is_limited { Entry::Closed } else { Entry::Free }),
            turn: Semaphore::new(1),
            reading: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            limit: Mutex::new(Limit { share: 1.0, held_by: None }),
        }
    }

    /// Waits until a chunk may be read.
    pub async fn enter(&self) -> Pass<'_> {
        let mut entry = self.entry.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = entry.wait_for(|entry| *entry != Entry::Closed).await;
            let is_free = *entry.borrow() == Entry::Free;
            // The semaphore is never closed.
            let turn = if is_free { None } else { self.turn.acquire().await.ok() };
            // It may have been closed while somebody else had the turn.
            if *entry.borrow() != Entry::Closed {
                self.entered.fetch_add(1, Ordering::SeqCst);
                self.reading.fetch_add(1, Ordering::SeqCst);
                return Pass { gate: self, turn };
            }
        }
    }

    /// As it is now.
    pub fn limit(&self) -> Limit {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_reading(&self) -> bool {
        self.reading.load(Ordering::SeqCst) > 0
    }

    fn entered(&self) -> u64 {
        self.entered.load(Ordering::SeqCst)
    }

    /// Opens and closes it for as long as this is polled. `open` makes a session on blue.
    pub async fn govern<W, F>(&self, open: impl Fn() -> F)
    where
        W: Watch,
        F: Future<Output = Result<W, Trouble>>,
    {
        loop {
            let governed = match open().await {
                Ok(watch) => Duty::new(self, watch).run().await,
                Err(trouble) => trouble,
            };
            // Not a word of it: a server's message may quote a value.
            tracing::debug!(place = governed.place, "blue is not watched for a moment");
            *self.locked() = Limit { share: LEAST, held_by: Some(HeldBy::Clients) };
            self.pulse().await;
        }
    }

    /// Lets chunks begin for the least share of a while: who works on blue is not known.
    async fn pulse(&self) {
        self.entry.send_replace(Entry::OneByOne);
        tokio::time::sleep(OPEN).await;
        self.entry.send_replace(Entry::Closed);
        tokio::time::sleep(OPEN.div_f64(LEAST) - OPEN).await;
    }
}

/// Reading and pausing by turns.
struct Duty<'a, W> {
    gate: &'a Gate,
    watch: W,
    governor: Governor,
    looked: Option<(Instant, bool)>,
}

impl<'a, W: Watch> Duty<'a, W> {
    fn new(gate: &'a Gate, watch: W) -> Self {
        Self { gate, watch, governor: Governor::default(), looked: None }
    }

    async fn run(mut self) -> Trouble {
        let Err(trouble) = self.turns().await;
        trouble
    }

    async fn turns(&mut self) -> Result<std::convert::Infallible, Trouble> {
        if self.has_to_share().await? {
            self.gate.entry.send_replace(Entry::Closed);
            self.pause(LEARN).await?;
        }
        loop {
            while !self.has_to_share().await? {
                self.gate.entry.send_replace(Entry::Free);
                self.tell(1.0, None);
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let opened = Instant::now();
            self.gate.entry.send_replace(Entry::OneByOne);
            while opened.elapsed() < OPEN {
                self.ask(ASK_READING).await?;
            }
            self.gate.entry.send_replace(Entry::Closed);
            // What was begun is read to its end; that is part of the time in which we are felt.
            while self.gate.is_reading() && self.has_to_share().await? {
                self.ask(ASK_READING).await?;
            }
            let share = self.governor.share();
            let by_lag = self.lag().is_none_or(|lag| lag > LAG[0]);
            self.tell(share, Some(if by_lag { HeldBy::Lag } else { HeldBy::Clients }));
            let pause = opened.elapsed().mul_f64(1.0 / share - 1.0).min(PAUSE_MAX);
            self.pause(pause).await?;
        }
    }

    async fn pause(&mut self, time: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + time;
        while Instant::now() < until && self.has_to_share().await? {
            self.ask(ASK_QUIET).await?;
        }
        Ok(())
    }

    /// Asks once, not too often.
    async fn ask(&mut self, every: Duration) -> Result<(), Trouble> {
        let (was_reading, entered) = (self.gate.is_reading(), self.gate.entered());
        let asked = Instant::now();
        self.watch.ask().await?;
        let took = asked.elapsed();
        // Whoever was answered beside a chunk, for however little of the time, may have waited for it.
        let is_beside = was_reading || entered != self.gate.entered();
        self.governor.answered(took, is_beside, self.lag());
        tokio::time::sleep(every.saturating_sub(took)).await;
        Ok(())
    }

    fn lag(&self) -> Option<f64> {
        self.watch.lag_seconds()
    }

    /// Whether there is anybody to spare.
    async fn has_to_share(&mut self) -> Result<bool, Trouble> {
        if let Some((looked, share)) = self.looked
            && looked.elapsed() < LOOK_EVERY
        {
            return Ok(share);
        }
        let share = self.watch.clients().await? > 0 || self.lag().is_none_or(|lag| lag > LAG[0]);
        self.looked = Some((Instant::now(), share));
        Ok(share)
    }

    fn tell(&self, share: f64, held_by: Option<HeldBy>) {
        *self.gate.locked() = Limit { share, held_by };
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn while_somebody_is_spared_one_enters_at_a_time() {
        let gate = Gate::new(true);
        assert!(gate.enter().now_or_never().is_none(), "closed");
        gate.entry.send_replace(Entry::OneByOne);
        let first = gate.enter().await;
        assert!(first.is_sparing());
        let mut second = Box::pin(gate.enter());
        assert!(second.as_mut().now_or_never().is_none(), "not its turn");
        gate.entry.send_replace(Entry::Closed);
        drop(first);
        assert!(second.as_mut().now_or_never().is_none(), "its turn, but closed meanwhile");
        gate.entry.send_replace(Entry::OneByOne);
        drop(second.await);
        gate.entry.send_replace(Entry::Free);
        let (one, other) = (gate.enter().await, gate.enter().await);
        assert!(!one.is_sparing() && !other.is_sparing());
        assert_eq!((gate.entered(), gate.is_reading()), (4, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blue_that_is_not_watched_is_hardly_read() {
        let gate = Gate::new(true);
        let began = Instant::now();
        let reading = async {
            let mut passes = Vec::new();
            for _ in 0..3 {
                drop(gate.enter().await);
                passes.push(began.elapsed());
                tokio::time::sleep(2 * OPEN).await;
            }
            passes
        };
        let pulsing = async {
            for _ in 0..3 {
                gate.pulse().await;
            }
        };
        let (passes, ()) = tokio::join!(reading, pulsing);
        // The clock counts milliseconds.
        let millis: Vec<u128> = passes.iter().map(Duration::as_millis).collect();
        let every = OPEN.div_f64(LEAST).as_millis();
        assert!(millis[0] <= 1 && millis[1].abs_diff(every) <= 2, "{millis:?}");
        assert!(millis[2].abs_diff(2 * every) <= 4, "{millis:?}");
    }
}
