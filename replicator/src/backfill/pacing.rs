//! Asks blue how it is while its rows are read, and slows the copy down when it is not well.

use std::pin::pin;
use std::time::Duration;

use decoders::postgres::session::{Session, describe};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Setting;
use super::run::Run;
use crate::protect::load::{ASK_EVERY, Pacer};

/// Answers before the copy begins; the fastest is what blue is like when it is well.
const BASELINE_ANSWERS: usize = 3;
/// An answer that is still not there counts every so often with the time that it has taken so far.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Paces the copy for as long as it is polled; ends with the reason when `keeper` no longer
/// answers. The keeper's session copies nothing, so its answers are not behind any rows.
pub(super) async fn pace(keeper: &Session, answer_ms_max: Setting, run: &Run) -> String {
    let mut baseline = Duration::MAX;
    for _ in 0..BASELINE_ANSWERS {
        let asked_at = Instant::now();
        if let Err(error) = keeper.batch_execute(QUESTION).await {
            return describe(&error);
        }
        baseline = baseline.min(asked_at.elapsed());
    }
    let mut pace = Pace::new(Pacer::new(answer_ms_max, baseline), run);
    let mut tick = interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked_at = Instant::now();
        let mut answer = pin!(keeper.batch_execute(QUESTION));
        let answered = loop {
            match timeout(ANSWER_PATIENCE, &mut answer).await {
                Ok(answered) => break answered,
                Err(_) => pace.answered(asked_at.elapsed()),
            }
        };
        if let Err(error) = answered {
            return describe(&error);
        }
        pace.answered(asked_at.elapsed());
    }
}

/// Needs no disk and no lock.
const QUESTION: &str = "SELECT 1";

/// The pacer's decisions, passed on to the throttle.
struct Pace<'a> {
    pacer: Pacer,
    run: &'a Run,
    read_bytes: u64,
    at: Instant,
    is_slowed: bool,
}

impl<'a> Pace<'a> {
    fn new(pacer: Pacer, run: &'a Run) -> Self {
        Self { pacer, run, read_bytes: run.bytes(), at: Instant::now(), is_slowed: false }
    }

    fn answered(&mut self, took: Duration) {
        let (read_bytes, at) = (self.run.bytes(), Instant::now());
        let elapsed_s = (at - self.at).as_secs_f64().max(0.001);
        let copying_at = (read_bytes.saturating_sub(self.read_bytes) as f64 / elapsed_s) as u64;
        (self.read_bytes, self.at) = (read_bytes, at);
        let rate = self.pacer.answered(took, copying_at);
        self.run.throttle.pace(rate);
        match rate {
            Some(bytes_per_s) if !self.is_slowed => tracing::warn!(
                bytes_per_s,
                answer_ms = took.as_millis() as u64,
                limit_ms = self.pacer.limit().map(|limit| limit.as_millis() as u64),
                "blue is slow to answer: the copy slows down"
            ),
            None if self.is_slowed => {
                tracing::info!("blue answers well: the copy runs at full speed again");
            }
            _ => {}
        }
        self.is_slowed = rate.is_some();
    }
}
