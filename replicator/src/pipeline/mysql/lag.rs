//! Blue's head, for the lag.
//!
//! The head is a position of the server's own, and which number that is shows when the stream has
//! read it. So a sample waits until then; while one waits, the stream is known not to be at the head.

use std::collections::VecDeque;
use std::time::Duration;

use cutover::lag::SAMPLE_INTERVAL;
use decoders::SourceError;
use decoders::mysql::Ledger;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Server, ServerUrl};
use decoders::mysql::stream::head;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Reading;
use crate::status::Shared;

/// How long an answer may take before the sample counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to connect.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Samples that wait, at most; beyond it every other one is dropped.
const WAITING_MAX: usize = 4096;

/// Samples blue's head for as long as it is polled.
pub(super) async fn watch(
    shared: &Shared,
    reading: &Reading,
    source: &ServerUrl,
    ledger: &Ledger,
) -> ! {
    let mut waiting = VecDeque::new();
    loop {
        let Err(error) = sample(shared, reading, source, ledger, &mut waiting).await;
        shared.head_unknown(&error.message);
        sleep(RECONNECT_INTERVAL).await;
    }
}

async fn sample(
    shared: &Shared,
    reading: &Reading,
    source: &ServerUrl,
    ledger: &Ledger,
    waiting: &mut VecDeque<(Instant, BinlogPosition)>,
) -> Result<std::convert::Infallible, SourceError> {
    let silent = |_| SourceError::retry("blue does not answer");
    let mut conn = timeout(ANSWER_TIMEOUT, server::connect(source)).await.map_err(silent)??;
    reading.opened("lag", &conn);
    let server = timeout(ANSWER_TIMEOUT, Server::read(&mut conn)).await.map_err(silent)??;
    let mut tick = interval(SAMPLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked_at = Instant::now();
        let head = timeout(ANSWER_TIMEOUT, head(&mut conn, &server)).await.map_err(silent)??;
        if waiting.len() >= WAITING_MAX {
            let mut keep = false;
            waiting.retain(|_| {
                keep = !keep;
                keep
            });
        }
        waiting.push_back((asked_at, head));
        let read = ledger.read();
        while let Some((asked_at, _)) = waiting.pop_front_if(|(_, head)| read.position.covers(head))
        {
            shared.head_sampled(asked_at, read.number);
        }
        shared.head_awaited(waiting.front().map(|(asked_at, _)| *asked_at));
    }
}
