//! Lets chunks be read for a share of the time while clients of blue work, one at a time, and all the
//! time while none does.
//!
//! What a client feels is the worst moment, not the sum: so while somebody works there is never more
//! than one statement of ours on blue, and it is a short one ([`super::stride`]). A pause follows each
//! of them: many moments that are too short to be felt, and not few that are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cutover::verify::{HeldBy, Limit};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::governor::{ASK_QUIET, ASK_READING, Governor, LAG, LEAST};
use super::reader::Trouble;

/// A client's transaction that is under way when a moment of reading begins meets it as well, so a
/// moment is felt for so much longer than it lasts.
const MEETS: Duration = Duration::from_millis(1);
/// No pause is longer: a table without a key is read in one piece, which may have taken minutes.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Questions that are timed together, one after the other, as the statements of a client's transaction
/// are: each of them may meet a chunk.
const STATEMENTS: usize = 5;
/// There is an answer beside no chunk at least so often, however short the pauses are: a quiet that is no
/// more would be no measure.
const QUIET_EVERY: Duration = Duration::from_millis(200);
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
    /// For the next one, who closes it.
    One,
    Free,
}

/// Where chunks wait until they may be read.
pub(super) struct Gate {
    entry: watch::Sender<Entry>,
    reading: AtomicU64,
    /// How many have ever entered.
    entered: AtomicU64,
    /// How long all that have left were inside, nanoseconds.
    read_ns: AtomicU64,
    left: Notify,
    limit: Mutex<Limit>,
}

/// Leave to read a chunk, until it is dropped.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    is_sparing: bool,
    entered: Instant,
}

impl Pass<'_> {
    /// Clients work: what is read now has to be short.
    pub fn is_sparing(&self) -> bool {
        self.is_sparing
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let read = u64::try_from(self.entered.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.gate.read_ns.fetch_add(read, Ordering::SeqCst);
        self.gate.reading.fetch_sub(1, Ordering::SeqCst);
        self.gate.left.notify_one();
    }
}

impl Gate {
    /// Closed until somebody governs it; or open for good.
    pub fn new(is_limited: bool) -> Self {
        Self {
            entry: watch::Sender::new(if is_limited { Entry::Closed } else { Entry::Free }),
            reading: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            read_ns: AtomicU64::new(0),
            left: Notify::new(),
            limit: Mutex::new(Limit { share: 1.0, held_by: None }),
        }
    }

    /// Waits until a chunk may be read.
    pub async fn enter(&self) -> Pass<'_> {
        let mut entry = self.entry.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = entry.wait_for(|entry| *entry != Entry::Closed).await;
            let mut found = Entry::Closed;
            self.entry.send_if_modified(|entry| {
                found = *entry;
                if found != Entry::Closed {
                    // Counted before anybody can see that it is closed again.
                    self.entered.fetch_add(1, Ordering::SeqCst);
                    self.reading.fetch_add(1, Ordering::SeqCst);
                }
                let is_taken = found == Entry::One;
                if is_taken {
                    *entry = Entry::Closed;
                }
                is_taken
            });
            // Somebody else may have been faster.
            if found != Entry::Closed {
                let is_sparing = found == Entry::One;
                return Pass { gate: self, is_sparing, entered: Instant::now() };
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

    fn read(&self) -> Duration {
        Duration::from_nanos(self.read_ns.load(Ordering::SeqCst))
    }

    /// Waits until somebody has taken the one entrance.
    async fn taken(&self) {
        let mut entry = self.entry.subscribe();
        // The sender lives as long as this.
        let _ = entry.wait_for(|entry| *entry == Entry::Closed).await;
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

    /// Lets a chunk begin for the least share of a while: who works on blue is not known.
    async fn pulse(&self) {
        self.entry.send_replace(if self.is_reading() { Entry::Closed } else { Entry::One });
        tokio::time::sleep(MEETS.div_f64(LEAST)).await;
        self.entry.send_replace(Entry::Closed);
    }
}

/// Reading and pausing by turns.
struct Duty<'a, W> {
    gate: &'a Gate,
    watch: W,
    governor: Governor,
    looked: Option<(Instant, bool)>,
    /// When blue was asked beside no chunk.
    quiet: Instant,
}

impl<'a, W: Watch> Duty<'a, W> {
    fn new(gate: &'a Gate, watch: W) -> Self {
        Self { gate, watch, governor: Governor::default(), looked: None, quiet: Instant::now() }
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
            self.gate.entry.send_replace(Entry::Closed);
            // Those who entered while it was free.
            self.beside().await?;
            let before = self.gate.read();
            self.gate.entry.send_replace(Entry::One);
            // Nobody may want to read now.
            while timeout(ASK_QUIET, self.gate.taken()).await.is_err() {
                self.ask().await?;
            }
            self.beside().await?;
            let share = self.governor.share();
            let by_lag = self.lag().is_none_or(|lag| lag > LAG[0]);
            self.tell(share, Some(if by_lag { HeldBy::Lag } else { HeldBy::Clients }));
            let read = self.gate.read().saturating_sub(before);
            let pause = (read + MEETS).div_f64(share).saturating_sub(read);
            self.pause(pause.min(PAUSE_MAX)).await?;
        }
    }

    /// Asks for as long as somebody reads: at least once, because that is what it is measured by.
    async fn beside(&mut self) -> Result<(), Trouble> {
        while self.gate.is_reading() && self.has_to_share().await? {
            let asked = Instant::now();
            self.ask().await?;
            let rest = ASK_READING.saturating_sub(asked.elapsed());
            // Elapsed: asked again.
            let _ = timeout(rest, self.gate.left.notified()).await;
        }
        Ok(())
    }

    async fn pause(&mut self, time: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(ASK_QUIET)).await;
            if !self.has_to_share().await? {
                return Ok(());
            }
            let is_over = left <= ASK_QUIET;
            if !is_over || self.quiet.elapsed() > QUIET_EVERY {
                self.ask().await?;
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// Asks as a client would.
    async fn ask(&mut self) -> Result<(), Trouble> {
        let (was_reading, entered) = (self.gate.is_reading(), self.gate.entered());
        let asked = Instant::now();
        for _ in 0..STATEMENTS {
            self.watch.ask().await?;
        }
        let took = asked.elapsed();
        // Whoever was answered beside a chunk, for however little of the time, may have waited for it.
        let is_beside = was_reading || entered != self.gate.entered();
        self.governor.answered(took, is_beside, self.lag());
        if !is_beside {
            self.quiet = Instant::now();
        }
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
        gate.entry.send_replace(Entry::One);
        assert!(gate.taken().now_or_never().is_none(), "nobody has entered");
        let first = gate.enter().await;
        assert!(first.is_sparing());
        assert!(gate.taken().now_or_never().is_some());
        let mut second = Box::pin(gate.enter());
        assert!(second.as_mut().now_or_never().is_none(), "not its turn");
        drop(first);
        assert!(second.as_mut().now_or_never().is_none(), "its turn comes after a pause");
        gate.entry.send_replace(Entry::One);
        drop(second.await);
        gate.entry.send_replace(Entry::Free);
        let (one, other) = (gate.enter().await, gate.enter().await);
        assert!(!one.is_sparing() && !other.is_sparing());
        assert_eq!((gate.entered(), gate.is_reading()), (4, true));
    }

    #[tokio::test]
    async fn of_many_who_wait_one_takes_the_one_entrance() {
        let gate = Gate::new(true);
        let mut all: Vec<_> = (0..5).map(|_| Box::pin(gate.enter())).collect();
        for wait in &mut all {
            assert!(wait.as_mut().now_or_never().is_none());
        }
        gate.entry.send_replace(Entry::One);
        let entered: Vec<_> = all.iter_mut().filter_map(|wait| wait.now_or_never()).collect();
        assert_eq!((entered.len(), gate.entered()), (1, 1));
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
        let every = MEETS.div_f64(LEAST).as_millis();
        assert!(millis[0] <= 1 && millis[1].abs_diff(every) <= 2, "{millis:?}");
        assert!(millis[2].abs_diff(2 * every) <= 4, "{millis:?}");
    }
}
