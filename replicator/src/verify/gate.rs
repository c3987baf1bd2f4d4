//! Lets chunks be read for a share of the time while clients of blue work, and all the time while
//! none does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cutover::verify::{HeldBy, Limit};
use tokio::sync::watch;
use tokio::time::Instant;

use super::governor::{ASK_EVERY, Governor, LAG, LEAST};
use super::reader::Trouble;

/// How long chunks may begin before there is a pause.
const OPEN: Duration = Duration::from_millis(50);
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

/// Where chunks wait until they may be read.
pub(super) struct Gate {
    open: watch::Sender<bool>,
    reading: AtomicU64,
    limit: Mutex<Limit>,
}

/// Leave to read a chunk, until it is dropped.
pub(super) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Closed until somebody governs it; or open for good.
    pub fn new(is_limited: bool) -> Self {
        Self {
            open: watch::Sender::new(!is_limited),
            reading: AtomicU64::new(0),
            limit: Mutex::new(Limit { share: 1.0, held_by: None }),
        }
    }

    /// Waits until a chunk may be read.
    pub async fn enter(&self) -> Pass<'_> {
        let mut open = self.open.subscribe();
        // The sender lives as long as this.
        let _ = open.wait_for(|open| *open).await;
        self.reading.fetch_add(1, Ordering::SeqCst);
        Pass(self)
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
        self.open.send_replace(true);
        tokio::time::sleep(OPEN).await;
        self.open.send_replace(false);
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
            self.gate.open.send_replace(false);
            self.pause(LEARN).await?;
        }
        loop {
            while !self.has_to_share().await? {
                self.gate.open.send_replace(true);
                self.tell(1.0, None);
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let opened = Instant::now();
            self.gate.open.send_replace(true);
            while opened.elapsed() < OPEN {
                self.ask().await?;
            }
            self.gate.open.send_replace(false);
            // What was begun is read to its end; that is part of the time in which we are felt.
            while self.gate.is_reading() && self.has_to_share().await? {
                self.ask().await?;
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
            self.ask().await?;
        }
        Ok(())
    }

    /// Asks once, not too often.
    async fn ask(&mut self) -> Result<(), Trouble> {
        let was_reading = self.gate.is_reading();
        let asked = Instant::now();
        self.watch.ask().await?;
        let took = asked.elapsed();
        // An answer during which reading began or ended belongs to neither.
        if was_reading == self.gate.is_reading() {
            let lag = self.lag();
            self.governor.answered(took, was_reading, lag);
        }
        tokio::time::sleep(ASK_EVERY.saturating_sub(took)).await;
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
    use super::*;

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
