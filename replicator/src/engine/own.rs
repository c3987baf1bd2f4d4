//! Our own writes in the log of a source: what the stream the other way round has applied there.
//!
//! They are left out, or every change would come back for ever. What is left out becomes an *idle
//! position*, never an empty transaction: that would still move a progress row on the other side,
//! which would come back as the next transaction to leave out, and so on without end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::session::Session;
use decoders::{SourceError, SourceEvent, Transaction, UNTOLD_ORIGIN};
use sinks::own::keys::{self, Known};
use sinks::own::{self, Mark};
use sinks::{LaneId, TargetError, progress};

/// Most lanes that a pipeline can ever have had.
pub const LANES_MAX: u16 = 64;

/// How long the source may take to say by what our own transactions are known.
const LEARN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pipeline whose lanes write on the source of a stream, and by what they are known there.
#[derive(Clone, Debug)]
pub struct Counterpart {
    pipeline: String,
    witness: Witness,
}

/// What is believed.
#[derive(Clone, Debug)]
enum Witness {
    /// The decoder itself says it: it has read the progress row that begins the transaction.
    Decoder,
    /// `_cutover.own_mark` of the source, as it was read last; the session is for reading it again.
    Keys(Box<Known>, Option<Arc<Session>>),
}

impl Counterpart {
    /// Of a source whose decoder makes the mark of a progress row.
    pub fn of_binlog(pipeline: impl Into<String>) -> Self {
        Self { pipeline: pipeline.into(), witness: Witness::Decoder }
    }

    /// Of a PostgreSQL source, as `session` tells now and whenever it is asked again.
    ///
    /// # Errors
    /// The server's; halts if `_cutover` is not ours alone there.
    pub async fn learned(
        pipeline: impl Into<String>,
        session: Session,
    ) -> Result<Self, TargetError> {
        let pipeline = pipeline.into();
        let known = Box::new(keys::learn(&session, &pipeline).await?);
        Ok(Self { pipeline, witness: Witness::Keys(known, Some(Arc::new(session))) })
    }
}

/// Knows the transactions of one pipeline's lanes where they are written.
#[derive(Debug)]
pub struct OwnApply {
    counterpart: Counterpart,
    origins: BTreeSet<String>,
    /// The answer for the large transaction that is under way: only its first part shows it.
    inside: bool,
}

/// Whose a transaction is, by what is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Ours,
    /// Whoever wrote it: it is data. `forged`: it says that it is ours.
    Others {
        forged: bool,
    },
    /// It has our replication origin, and no lane of ours has ever written there.
    OriginWithoutLane,
    /// It knows the secret, and all of ours have an origin.
    SecretWithoutOrigin,
}

impl OwnApply {
    /// Of the pipeline that applies to the source of the stream.
    pub fn of(counterpart: Counterpart) -> Self {
        let origins = origins(&counterpart.pipeline);
        Self { counterpart, origins, inside: false }
    }

    /// Asks the source again if an event can't be judged by what is known: it may be from a lane that
    /// was opened since. Before [`OwnApply::is_ours`] of it.
    ///
    /// # Errors
    /// The source's.
    pub async fn look_again(&mut self, event: &SourceEvent) -> Result<(), SourceError> {
        let SourceEvent::Transaction(transaction) = event else { return Ok(()) };
        if !transaction.part.starts() || !self.is_claimed(transaction) {
            return Ok(());
        }
        let Witness::Keys(known, session) = &mut self.counterpart.witness else { return Ok(()) };
        let is_new = transaction.commit_lsn > known.as_of;
        let whose = judge(transaction, &self.counterpart.pipeline, &self.origins, known);
        let (true, Some(session)) = (is_new && whose != Whose::Ours, session) else {
            return Ok(());
        };
        let learning = keys::learn(session, &self.counterpart.pipeline);
        match tokio::time::timeout(LEARN_TIMEOUT, learning).await {
            Ok(Ok(learned)) => **known = learned,
            Ok(Err(error)) => {
                let refused = match error.remedy {
                    Some(remedy) => SourceError::halt(error.message, remedy),
                    None => SourceError::retry(error.message),
                };
                return Err(refused);
            }
            Err(_) => {
                let what = "the source does not say by what our own transactions are known";
                return Err(SourceError::retry(what));
            }
        }
        Ok(())
    }

    /// Whether the transaction, or this part of one, is ours. Every part has to be shown, in order.
    ///
    /// # Errors
    /// Halts at a transaction that only somebody with more rights than a client's can have written, and that
    /// none of our lanes has.
    pub fn is_ours(&mut self, transaction: &Transaction) -> Result<bool, SourceError> {
        if transaction.part.starts() {
            self.inside = self.is_claimed(transaction) && self.is_believed(transaction)?;
        }
        Ok(self.inside)
    }

    /// Whether somebody says that it is ours: of all others no more has to be known.
    fn is_claimed(&self, transaction: &Transaction) -> bool {
        transaction.origin.as_ref().is_some_and(|origin| self.origins.contains(&**origin))
            || transaction
                .changes
                .first()
                .is_some_and(|first| own::is_mark_of(first, &self.counterpart.pipeline))
    }

    fn is_believed(&self, transaction: &Transaction) -> Result<bool, SourceError> {
        let Witness::Keys(known, _) = &self.counterpart.witness else { return Ok(true) };
        let pipeline = &self.counterpart.pipeline;
        match judge(transaction, pipeline, &self.origins, known) {
            Whose::Ours => Ok(true),
            Whose::Others { forged } => {
                if forged {
                    tracing::warn!(
                        pipeline,
                        commit = %transaction.commit_lsn,
                        xid = transaction.xid,
                        "somebody has marked a transaction as ours that is not; it is applied like any other"
                    );
                }
                Ok(false)
            }
            Whose::OriginWithoutLane => Err(SourceError::halt(
                format!(
                    "the transaction that commits at {} has a replication origin of pipeline {pipeline:?}, \
                     which has never written on this side. It is not applied, and nothing behind it",
                    transaction.commit_lsn
                ),
                "Find out who uses that origin (pg_replication_origin on the source): a role that may \
                     is a superuser, or was granted its functions. If its rows are to be moved, \
                     copy again: replicator teardown, then run with an empty green",
            )),
            Whose::SecretWithoutOrigin => Err(SourceError::halt(
                format!(
                    "the transaction that commits at {} holds the secret of pipeline {pipeline:?}, without \
                     the replication origin that all of its transactions have. It is not applied, and nothing \
                     behind it",
                    transaction.commit_lsn
                ),
                "Somebody has read the source's log or our table _cutover.own_mark and writes in our name: find \
                     out which roles may use replication slots there. If its rows are to be moved, \
                     copy again: replicator teardown, then run with an empty green",
            )),
        }
    }
}

/// Judges a transaction, or the first part of one, that somebody says is ours.
fn judge(
    transaction: &Transaction,
    pipeline: &str,
    origins: &BTreeSet<String>,
    known: &Known,
) -> Whose {
    let origin = transaction.origin.as_deref();
    if origin.is_some_and(|origin| origins.contains(origin)) {
        return match known.has_written {
            true => Whose::Ours,
            false => Whose::OriginWithoutLane,
        };
    }
    let mark = transaction.changes.first().and_then(Mark::of);
    let Some(mark) = mark.filter(|mark| mark.pipeline == pipeline.as_bytes()) else {
        return Whose::Others { forged: false };
    };
    // What flushes the log. Nothing is left out with it, whoever wrote it.
    if transaction.part.starts() && transaction.part.ends() && transaction.changes.len() == 1 {
        return Whose::Ours;
    }
    let commit = transaction.commit_lsn;
    match (mark.proof, known.secret) {
        (Some(proof), Some(secret)) if proof == secret => {
            let has_origin = known.origin_since.is_some_and(|since| commit >= since);
            match has_origin && origin != Some(UNTOLD_ORIGIN) {
                true => Whose::SecretWithoutOrigin,
                false => Whose::Ours,
            }
        }
        // Of a version that had no secrets.
        (None, Some(_)) if known.has_written && commit < known.since => Whose::Ours,
        _ => Whose::Others { forged: true },
    }
}

/// Names of the replication origins that a pipeline's lanes and repairs may have on their target.
pub fn origins(pipeline: &str) -> BTreeSet<String> {
    let lanes = (0..=LANES_MAX).map(LaneId).chain([progress::REPAIR]);
    lanes.map(|lane| progress::origin_name(pipeline, lane)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use decoders::source::Disposition;
    use decoders::{ChangeEvent, Lsn, Part};
    use proptest::prelude::*;
    use sinks::own::Secret;

    use super::*;
    use crate::engine::frontier::Frontier;

    const SECRET_OF: &str = "shop_back";

    fn transaction(part: Part, origin: Option<&str>, mark: Option<&str>) -> Transaction {
        let mark = mark.map(|content| ChangeEvent::Message {
            prefix: own::MESSAGE_PREFIX.into(),
            content: Bytes::copy_from_slice(content.as_bytes()),
        });
        Transaction {
            part,
            xid: 7,
            commit_lsn: Lsn(100),
            end_lsn: part.ends().then_some(Lsn(108)),
            committed_at_us: 0,
            origin: origin.map(Into::into),
            changes: mark.into_iter().chain([row()]).collect(),
            bytes: 1,
        }
    }

    /// Anything that is no mark.
    fn row() -> ChangeEvent {
        ChangeEvent::Message { prefix: "app".into(), content: Bytes::from_static(b"a change") }
    }

    fn known(secret: Secret) -> Known {
        Known {
            secret: Some(secret),
            since: Lsn(50),
            origin_since: None,
            has_written: true,
            as_of: Lsn(1000),
        }
    }

    fn told(known: Known) -> OwnApply {
        OwnApply::of(Counterpart {
            pipeline: SECRET_OF.into(),
            witness: Witness::Keys(Box::new(known), None),
        })
    }

    fn whole(origin: Option<&str>, mark: Option<&str>) -> Transaction {
        transaction(Part::Whole, origin, mark)
    }

    #[test]
    fn what_a_binlogs_decoder_says_is_believed() {
        let mut own = OwnApply::of(Counterpart::of_binlog("shop_back"));
        assert!(own.is_ours(&whole(None, Some("shop_back"))).unwrap());
        assert!(!own.is_ours(&whole(None, Some("shop"))).unwrap());
        assert!(!own.is_ours(&whole(None, None)).unwrap());
    }

    #[test]
    fn an_origin_of_ours_is_believed_where_we_have_written() {
        let mut own = told(known(Secret::random()));
        assert!(own.is_ours(&whole(Some("cutover_shop_back"), None)).unwrap());
        assert!(own.is_ours(&whole(Some("cutover_shop_back_3"), None)).unwrap());
        assert!(!own.is_ours(&whole(Some("cutover_shop"), Some("shop"))).unwrap());
        assert!(!own.is_ours(&whole(Some("pg_16400"), None)).unwrap());
        let mut never = told(Known::never(Lsn(1000)));
        let error = never.is_ours(&whole(Some("cutover_shop_back"), None)).unwrap_err();
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
    }

    /// Everybody may write a message.
    #[test]
    fn a_name_without_the_secret_is_data() {
        let secret = Secret::random();
        let other = own::content(&Secret::random(), SECRET_OF);
        for mut own in [told(known(secret)), told(Known::never(Lsn(1000)))] {
            for mark in [SECRET_OF, &other, "shop", &other[..32]] {
                assert!(!own.is_ours(&whole(None, Some(mark))).unwrap(), "{mark}");
                assert!(!own.is_ours(&whole(Some("pg_1"), Some(mark))).unwrap(), "{mark}");
                assert!(!own.is_ours(&whole(Some(UNTOLD_ORIGIN), Some(mark))).unwrap(), "{mark}");
            }
        }
    }

    #[test]
    fn the_secret_is_believed_unless_there_has_to_be_an_origin() {
        let secret = Secret::random();
        let mark = own::content(&secret, SECRET_OF);
        assert!(told(known(secret)).is_ours(&whole(None, Some(&mark))).unwrap());
        let with_origins = |since| Known { origin_since: Some(Lsn(since)), ..known(secret) };
        // Those before it had none.
        assert!(told(with_origins(101)).is_ours(&whole(None, Some(&mark))).unwrap());
        let error = told(with_origins(100)).is_ours(&whole(None, Some(&mark))).unwrap_err();
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
        assert!(!error.to_string().contains(&mark[..32]), "{error}");
        // The server does not say it.
        let received_while_running = whole(Some(UNTOLD_ORIGIN), Some(&mark));
        assert!(told(with_origins(100)).is_ours(&received_while_running).unwrap());
    }

    #[test]
    fn a_name_alone_is_believed_only_of_the_time_before_secrets() {
        let before = Known { since: Lsn(101), ..known(Secret::random()) };
        assert!(told(before.clone()).is_ours(&whole(None, Some(SECRET_OF))).unwrap());
        let behind = Known { since: Lsn(100), ..before.clone() };
        assert!(!told(behind).is_ours(&whole(None, Some(SECRET_OF))).unwrap());
        let never = Known { has_written: false, ..before };
        assert!(!told(never).is_ours(&whole(None, Some(SECRET_OF))).unwrap());
    }

    /// It flushes the log, and leaving it out loses nothing.
    #[test]
    fn a_mark_that_stands_alone_is_left_out() {
        let mut alone = whole(None, Some(SECRET_OF));
        alone.changes.truncate(1);
        assert!(told(Known::never(Lsn(1000))).is_ours(&alone).unwrap());
        alone.part = Part::First;
        assert!(!told(Known::never(Lsn(1000))).is_ours(&alone).unwrap());
    }

    #[test]
    fn all_parts_share_the_answer_of_the_first() {
        let secret = Secret::random();
        let mark = own::content(&secret, SECRET_OF);
        let mut own = told(known(secret));
        assert!(own.is_ours(&transaction(Part::First, None, Some(&mark))).unwrap());
        assert!(own.is_ours(&transaction(Part::Middle, None, None)).unwrap());
        assert!(own.is_ours(&transaction(Part::Last, None, None)).unwrap());
        assert!(!own.is_ours(&transaction(Part::First, None, None)).unwrap());
        assert!(!own.is_ours(&transaction(Part::Last, None, Some(&mark))).unwrap());
    }

    /// One side's log and what its stream has made of it.
    #[derive(Default)]
    struct Log {
        head: u64,
        /// End of a transaction, and whether its writer is our own lane.
        unread: VecDeque<(u64, bool)>,
        frontier: Frontier,
        held: VecDeque<u64>,
        writes: usize,
    }

    impl Log {
        fn write(&mut self, is_ours: bool) {
            self.head += 8;
            self.unread.push_back((self.head, is_ours));
            self.writes += 1;
        }

        /// Reads one transaction. Ours is idle time; what stands by holds the others.
        fn read(&mut self) {
            match self.unread.pop_front() {
                Some((end, true)) => self.frontier.idle(Lsn(end)),
                Some((end, false)) => {
                    self.frontier.transaction_received(Lsn(end));
                    self.held.push_back(end);
                }
                None => {}
            }
        }

        /// Applies one transaction to the other side.
        fn apply(&mut self, other: &mut Log) {
            if let Some(end) = self.held.pop_front() {
                self.frontier.transactions_applied(Lsn(end), 1);
                other.write(true);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(bool),
        Read(bool),
        Apply(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(Step::Write),
            any::<bool>().prop_map(Step::Read),
            any::<bool>().prop_map(Step::Apply),
        ]
    }

    proptest! {
        /// Both streams hot, in any order of events: nothing that is held is ever passed, and when
        /// the clients stop, both come to rest having written once for each client's transaction.
        #[test]
        fn two_streams_between_two_sides_come_to_rest(
            steps in proptest::collection::vec(step(), 1..100),
        ) {
            let (mut blue, mut green) = (Log::default(), Log::default());
            let mut clients = 0;
            for step in steps {
                match step {
                    Step::Write(true) => blue.write(false),
                    Step::Write(false) => green.write(false),
                    Step::Read(true) => blue.read(),
                    Step::Read(false) => green.read(),
                    Step::Apply(true) => blue.apply(&mut green),
                    Step::Apply(false) => green.apply(&mut blue),
                }
                clients += usize::from(matches!(step, Step::Write(_)));
                for log in [&blue, &green] {
                    if let Some(oldest) = log.held.front() {
                        prop_assert!(log.frontier.applied().0 < *oldest);
                    }
                }
            }
            for _ in 0..2 * clients + 2 {
                blue.read();
                green.read();
                blue.apply(&mut green);
                green.apply(&mut blue);
            }
            prop_assert_eq!(blue.writes + green.writes, 2 * clients);
            for log in [&blue, &green] {
                prop_assert!(log.unread.is_empty() && log.held.is_empty());
                prop_assert_eq!(log.frontier.applied(), Lsn(log.head));
            }
        }
    }
}
