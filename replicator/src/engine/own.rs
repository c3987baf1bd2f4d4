//! Our own writes in the log of a source: what the stream the other way round has applied there.
//!
//! They are left out, or every change would come back for ever. What is left out becomes an *idle
//! position*, never an empty transaction: that would still move a progress row on the other side,
//! which would come back as the next transaction to leave out, and so on without end.

use std::collections::BTreeSet;

use decoders::Transaction;
use sinks::{LaneId, own, progress};

/// Most lanes that a pipeline can ever have had.
pub const LANES_MAX: u16 = 64;

/// Knows the transactions of one pipeline's lanes where they are written.
#[derive(Debug)]
pub struct OwnApply {
    pipeline: String,
    origins: BTreeSet<String>,
    /// The answer for the large transaction that is under way: only its first part shows it.
    inside: bool,
}

impl OwnApply {
    /// Of the pipeline that applies to the source of the stream.
    pub fn of(pipeline: &str) -> Self {
        Self { pipeline: pipeline.into(), origins: origins(pipeline), inside: false }
    }

    /// Whether the transaction, or this part of one, is ours. Every part has to be shown, in order.
    pub fn is_ours(&mut self, transaction: &Transaction) -> bool {
        if transaction.part.starts() {
            let by_origin =
                transaction.origin.as_ref().is_some_and(|origin| self.origins.contains(&**origin));
            let first = transaction.changes.first();
            self.inside =
                by_origin || first.is_some_and(|change| own::is_mark_of(change, &self.pipeline));
        }
        self.inside
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
    use decoders::{ChangeEvent, Lsn, Part};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::frontier::Frontier;

    fn transaction(part: Part, origin: Option<&str>, mark: Option<&str>) -> Transaction {
        let mark = mark.map(|pipeline| ChangeEvent::Message {
            prefix: own::MESSAGE_PREFIX.into(),
            content: Bytes::copy_from_slice(pipeline.as_bytes()),
        });
        Transaction {
            part,
            xid: 7,
            commit_lsn: Lsn(100),
            end_lsn: part.ends().then_some(Lsn(108)),
            committed_at_us: 0,
            origin: origin.map(Into::into),
            changes: mark.into_iter().collect(),
            bytes: 1,
        }
    }

    #[test]
    fn ours_is_known_by_origin_or_mark() {
        let mut own = OwnApply::of("shop_back");
        let whole = |origin, mark| transaction(Part::Whole, origin, mark);
        assert!(own.is_ours(&whole(Some("cutover_shop_back"), None)));
        assert!(own.is_ours(&whole(Some("cutover_shop_back_3"), None)));
        assert!(own.is_ours(&whole(None, Some("shop_back"))));
        assert!(!own.is_ours(&whole(Some("cutover_shop"), Some("shop"))));
        assert!(!own.is_ours(&whole(Some("pg_16400"), None)));
        assert!(!own.is_ours(&whole(None, None)));
    }

    #[test]
    fn all_parts_share_the_answer_of_the_first() {
        let mut own = OwnApply::of("shop");
        assert!(own.is_ours(&transaction(Part::First, None, Some("shop"))));
        assert!(own.is_ours(&transaction(Part::Middle, None, None)));
        assert!(own.is_ours(&transaction(Part::Last, None, None)));
        assert!(!own.is_ours(&transaction(Part::First, None, None)));
        assert!(!own.is_ours(&transaction(Part::Last, None, Some("shop"))));
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
