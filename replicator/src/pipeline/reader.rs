//! Which of the two ways of reading the slot, and when to change over.
//!
//! A walsender sends every message by itself, which is right near the tip and several times too
//! slow far behind it, where gulps are read from a copy of the slot (`decoders::postgres::gulp`).
//! Changing over ends one run of the stream in order, everything that was read being applied and
//! acknowledged, and begins the next one at the durable position, as any start does. So it has no
//! state of its own that a crash could catch half-way.

use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::gulp::{GulpOptions, GulpStream, HandoverReason, OpenError};
use decoders::postgres::session::Session;
use decoders::postgres::stream::{PgStream, StreamOptions};
use decoders::{Lsn, Position, Source, SourceError, SourceEvent};

use crate::config::ReaderMode;
use crate::probe;
use crate::status::Shared;

/// Log beyond the position to read from that makes gulps worth their start: about two seconds of
/// a walsender at its fastest.
const FAR_BEHIND_BYTES: u64 = 64 << 20;

/// A stream has to be far behind in so many looks, one after the other.
const LOOKS: u32 = 5;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After a gulp did not pay, log to get past before the next is tried.
const BARRED_BYTES: u64 = 1 << 30;

/// A slot's reader.
pub(super) enum Reader {
    /// Near the tip.
    Stream(Box<PgStream>),
    /// Far behind it.
    Gulp(Box<GulpStream>),
}

impl Reader {
    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Reader::Stream(_) => "stream",
            Reader::Gulp(_) => "gulps",
        }
    }

    /// Whether values travel in binary.
    pub fn is_binary(&self) -> bool {
        match self {
            Reader::Stream(stream) => stream.is_binary(),
            Reader::Gulp(gulp) => gulp.is_binary(),
        }
    }

    /// Whether large transactions are received while they run on blue.
    pub fn is_streaming_running(&self) -> bool {
        matches!(self, Reader::Stream(stream) if stream.is_streaming_running())
    }

    /// Ends it in order, so that the slot is free for the next reader at once.
    pub async fn close(self) -> Result<(), SourceError> {
        match self {
            Reader::Stream(stream) => stream.close().await,
            Reader::Gulp(gulp) => gulp.close().await,
        }
    }
}

impl Source for Reader {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        match self {
            Reader::Stream(stream) => stream.next().await,
            Reader::Gulp(gulp) => gulp.next().await,
        }
    }

    async fn keep_alive(&mut self) -> SourceError {
        match self {
            Reader::Stream(stream) => stream.keep_alive().await,
            Reader::Gulp(gulp) => gulp.keep_alive().await,
        }
    }

    async fn acknowledge(&mut self, durable: Position) -> Result<(), SourceError> {
        match self {
            Reader::Stream(stream) => stream.acknowledge(durable).await,
            Reader::Gulp(gulp) => gulp.acknowledge(durable).await,
        }
    }
}

/// What is known of gulps from one run of the stream to the next.
#[derive(Default)]
pub(super) struct Choice {
    /// Why there are none on this blue; asked once.
    unavailable: bool,
    /// Not before this position.
    barred_until: Lsn,
}

impl Choice {
    /// Opens the reader that fits the distance from `options.start` to blue's head.
    pub async fn open(
        &mut self,
        blue: &ConnInfo,
        session: &Session,
        mode: ReaderMode,
        options: StreamOptions,
    ) -> Result<Reader, SourceError> {
        let from = options.start.unwrap_or(Lsn::INVALID);
        if mode == ReaderMode::Auto && self.allows(from) {
            let head = probe::head(session).await.map_err(|reason| {
                SourceError::retry(format!("can't read the end of blue's log: {reason}"))
            })?;
            if head.bytes_since(from) >= FAR_BEHIND_BYTES {
                match GulpStream::open(blue, GulpOptions::new(options.clone())).await {
                    Ok(gulp) => return Ok(Reader::Gulp(Box::new(gulp))),
                    Err(OpenError::Unavailable { reason }) => {
                        self.unavailable = true;
                        tracing::warn!(reason, "no catch-up in gulps: streaming all the way");
                    }
                    Err(OpenError::Failed(error)) => return Err(error),
                }
            }
        }
        PgStream::open(blue, options).await.map(|stream| Reader::Stream(Box::new(stream)))
    }

    /// Takes note of how a reader ended that handed over at `position`.
    pub fn handed_over(&mut self, reader: &Reader, position: Lsn) {
        let Reader::Gulp(gulp) = reader else { return };
        match gulp.handover() {
            None | Some(HandoverReason::NearTip) => {}
            Some(HandoverReason::TooLarge | HandoverReason::Rereading) => {
                self.barred_until = Lsn(position.0.saturating_add(BARRED_BYTES));
            }
        }
    }

    /// Whether gulps may be tried from `from` on.
    pub fn allows(&self, from: Lsn) -> bool {
        !self.unavailable && from >= self.barred_until
    }
}

/// Returns when a stream has been far behind for a while and it is the reading that is slow: with
/// the budget full it is green, and another reader would not help.
pub(super) async fn far_behind(shared: &Shared, choice: &Choice) {
    let mut looks = 0;
    while looks < LOOKS {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let behind = shared.bytes_behind().is_some_and(|bytes| bytes >= FAR_BEHIND_BYTES);
        let allowed = choice.allows(shared.progress.borrow().received());
        let reading_is_slow = shared.budget.used_bytes() < shared.budget.bytes() / 2;
        looks = if behind && allowed && reading_is_slow { looks + 1 } else { 0 };
    }
}
