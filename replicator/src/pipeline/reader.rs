//! Which of the two ways of reading the slot, and when to change over.
//!
//! A walsender sends every message by itself, which is right near the tip and several times too
//! slow far behind it, where gulps are read from a copy of the slot (`decoders::postgres::gulp`).
//! Changing over ends one run of the stream in order, everything that was read being applied and
//! acknowledged, and begins the next one at the durable position, as any start does. So it has no
//! state of its own that a crash could catch half-way.

use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::gulp::{GulpOptions, GulpStream, HandoverReason, OpenError, REREAD_BYTES};
use decoders::postgres::session::Session;
use decoders::postgres::stream::{PgStream, StreamOptions, SystemIdentity};
use decoders::{Lsn, Position, Source, SourceError, SourceEvent};

use crate::config::{ApplyConfig, ReaderMode};
use crate::engine::apply::Applier;
use crate::probe;
use crate::status::Shared;
use crate::store::Store;

/// Gulps hand over to the stream when so much of `apply.far_behind_bytes` is left.
const NEAR_SHARE: u64 = 4;

/// A stream has to be far behind in so many looks, one after the other.
const LOOKS: u32 = 5;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A slot's reader.
pub(super) enum Reader {
    /// Near the tip.
    Stream(Box<PgStream>),
    /// Far behind it.
    Gulp(Box<GulpStream>),
}

impl Reader {
    /// A stream, however far it is behind.
    pub async fn stream(source: &ConnInfo, options: StreamOptions) -> Result<Self, SourceError> {
        PgStream::open(source, options).await.map(|stream| Reader::Stream(Box::new(stream)))
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Reader::Stream(_) => "stream",
            Reader::Gulp(_) => "gulps",
        }
    }

    /// Who the server is.
    pub fn identity(&self) -> SystemIdentity {
        match self {
            Reader::Stream(stream) => stream.identity(),
            Reader::Gulp(gulp) => gulp.identity(),
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

/// What is known of gulps from one run of the stream to the next, and after an error.
#[derive(Debug, Default)]
pub struct Choice {
    /// There are none on this blue; asked once.
    unavailable: bool,
    /// Not before this position.
    barred_until: Lsn,
    /// They did not pay when they were tried last: not before the head that blue has when it is
    /// asked next.
    must_bar: bool,
    /// The next reader begins with so few changes a gulp.
    fewer_changes: Option<u32>,
    /// The next stream is read on one thread and applied on another.
    must_part: bool,
}

impl Choice {
    /// Opens the reader that fits the distance from `options.start` to blue's head.
    pub(super) async fn open(
        &mut self,
        blue: &ConnInfo,
        session: &Session,
        apply: &ApplyConfig,
        options: StreamOptions,
    ) -> Result<Reader, SourceError> {
        let from = options.start.unwrap_or(Lsn::INVALID);
        if apply.reader == ReaderMode::Auto && self.allows(from) {
            let head = probe::head(session).await.map_err(|reason| {
                SourceError::retry(format!("can't read the end of blue's log: {reason}"))
            })?;
            if self.pays(from, head, apply.far_behind_bytes) {
                let mut gulps = GulpOptions::new(options.clone());
                gulps.near_bytes = apply.far_behind_bytes / NEAR_SHARE;
                gulps.fewer_changes = self.fewer_changes;
                match GulpStream::open(blue, gulps).await {
                    Ok(gulp) => return Ok(Reader::Gulp(Box::new(gulp))),
                    Err(OpenError::Unavailable { reason }) => {
                        self.unavailable = true;
                        tracing::warn!(reason, "no catch-up in gulps: streaming all the way");
                    }
                    Err(OpenError::NotNow { reason }) => {
                        self.barred_until = head;
                        tracing::info!(reason, until = %head, "no gulps for now: streaming");
                    }
                    Err(OpenError::Failed(error)) => return Err(error),
                }
            }
        }
        Reader::stream(blue, options).await
    }

    /// Takes note of how a reader ended.
    pub(super) fn handed_over(&mut self, reader: &Reader) {
        if let Reader::Gulp(gulp) = reader
            && let Some(reason) = gulp.handover()
        {
            self.learn(reason);
        }
    }

    fn learn(&mut self, reason: HandoverReason) {
        self.fewer_changes = None;
        match reason {
            HandoverReason::NearTip => {}
            HandoverReason::Fewer(changes) => self.fewer_changes = Some(changes),
            HandoverReason::TooLarge | HandoverReason::Rereading => self.must_bar = true,
        }
    }

    /// Whether gulps may be tried from `from` on.
    pub(super) fn allows(&self, from: Lsn) -> bool {
        !self.unavailable && from >= self.barred_until
    }

    /// How a stream that begins at `from` is applied: by whoever reads it, as long as there is a remedy
    /// for the day on which that is too slow.
    pub(super) fn applier(&mut self, from: Lsn) -> Applier {
        match !std::mem::take(&mut self.must_part) && self.allows(from) {
            true => Applier::Beside,
            false => Applier::Apart,
        }
    }

    /// Whether they are worth it from there, with blue's head as it is now.
    fn pays(&mut self, from: Lsn, head: Lsn, far_bytes: u64) -> bool {
        if std::mem::take(&mut self.must_bar) {
            self.barred_until = head;
            tracing::info!(until = %head, "gulps do not pay for now: streaming");
        }
        self.allows(from) && head.bytes_since(from) >= far_bytes
    }
}

/// Returns when a stream has been far behind for a while and something would help, which `choice` knows then:
/// its name, for people.
pub(super) async fn far_behind(
    shared: &Shared,
    choice: &mut Choice,
    store: &Store,
    far_bytes: u64,
    applier: Applier,
) -> &'static str {
    let mut looks = 0;
    let mut received_before = Lsn::INVALID;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let received = shared.progress.borrow().received();
        let look = Look {
            behind_bytes: shared.bytes_behind(),
            retained_bytes: shared.slot().retained_bytes,
            moves: received > received_before,
            reading_is_slow: shared.budget.used_bytes() < shared.budget.bytes() / 2,
        };
        received_before = received;
        let gulps = look.wants_gulps(far_bytes) && choice.allows(received);
        let parting = look.wants_parting(far_bytes) && applier == Applier::Beside;
        // The spool is asked last: it may be busy for a while with what it throws away.
        looks = match (gulps || parting) && store.spool().is_empty() {
            true => looks + 1,
            false => 0,
        };
        if looks == LOOKS {
            choice.must_part = !gulps;
            return if gulps { "gulps" } else { "a stream that another thread applies" };
        }
    }
}

/// A stream, as it is at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Log between blue's head and what was received, if it is known.
    behind_bytes: Option<u64>,
    /// Log between blue's head and where the slot would begin to decode, if it is known.
    retained_bytes: Option<u64>,
    /// Something was received whole since the look before. If not, the stream may be in the middle
    /// of a large transaction, which the next reader would have to begin anew.
    moves: bool,
    /// The budget is not full: with a slow green, no other reader would help.
    reading_is_slow: bool,
}

impl Look {
    fn wants_gulps(&self, far_bytes: u64) -> bool {
        let Some(behind) = self.behind_bytes else { return false };
        // Each gulp would decode this again; a gulping reader looks at it more closely.
        let again = self.retained_bytes.map_or(0, |retained| retained.saturating_sub(behind));
        behind >= far_bytes && again <= REREAD_BYTES && self.moves && self.reading_is_slow
    }

    /// Whether a second thread may help where gulps don't. One that has too much to do looks the same as
    /// a green that is slow: the budget is full.
    fn wants_parting(&self, far_bytes: u64) -> bool {
        self.moves && self.behind_bytes.is_some_and(|behind| behind >= far_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: u64 = 64 << 20;

    #[test]
    fn after_gulps_that_did_not_pay_the_stream_has_all_that_was_there_then() {
        for reason in [HandoverReason::TooLarge, HandoverReason::Rereading] {
            let mut choice = Choice::default();
            assert!(choice.allows(Lsn(1)) && choice.pays(Lsn(1), Lsn(10 * FAR), FAR));
            choice.learn(reason);
            assert!(!choice.pays(Lsn(2), Lsn(20 * FAR), FAR));
            assert!(!choice.allows(Lsn(20 * FAR - 1)), "an error in between changes nothing");
            assert!(choice.allows(Lsn(20 * FAR)));
            assert!(choice.pays(Lsn(20 * FAR), Lsn(30 * FAR), FAR));
        }
    }

    #[test]
    fn near_the_tip_nothing_is_learned_and_fewer_is_forgotten() {
        let mut choice = Choice::default();
        choice.learn(HandoverReason::Fewer(7));
        assert_eq!(choice.fewer_changes, Some(7));
        assert!(choice.pays(Lsn(1), Lsn(2 * FAR), FAR), "it goes on with gulps");
        choice.learn(HandoverReason::NearTip);
        assert_eq!(choice.fewer_changes, None);
        assert!(choice.pays(Lsn(1), Lsn(2 * FAR), FAR));
        assert!(!choice.pays(Lsn(FAR), Lsn(2 * FAR - 1), FAR), "not far enough");
    }

    #[test]
    fn a_stream_goes_on_while_gulps_would_not_help() {
        let look = Look {
            behind_bytes: Some(FAR),
            retained_bytes: Some(2 * FAR),
            moves: true,
            reading_is_slow: true,
        };
        assert!(look.wants_gulps(FAR));
        assert!(Look { retained_bytes: None, ..look }.wants_gulps(FAR));
        let better_not = [
            Look { behind_bytes: None, ..look },
            Look { behind_bytes: Some(FAR - 1), ..look },
            Look { retained_bytes: Some(FAR + REREAD_BYTES + 1), ..look },
            Look { moves: false, ..look },
            Look { reading_is_slow: false, ..look },
        ];
        let parts = [false, false, true, false, true];
        for (look, parts) in better_not.into_iter().zip(parts) {
            assert!(!look.wants_gulps(FAR), "{look:?}");
            assert_eq!(look.wants_parting(FAR), parts, "{look:?}");
        }
    }

    #[test]
    fn a_stream_parts_once_and_where_no_gulps_are() {
        let mut choice = Choice { must_part: true, ..Choice::default() };
        assert_eq!(choice.applier(Lsn(1)), Applier::Apart);
        assert_eq!(choice.applier(Lsn(1)), Applier::Beside);
        choice.unavailable = true;
        assert_eq!(choice.applier(Lsn(1)), Applier::Apart);
    }
}
