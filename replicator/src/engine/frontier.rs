//! The four positions of a stream and the order between them.
//!
//! ```text
//! acked <= durable <= applied <= received
//! ```
//! *received*: everything up to here came out of the source. *applied*: committed on green.
//! *durable*: flushed there, and that fact is in the checkpoint. *acked*: blue was told and may forget.
//!
//! An idle source moves by keepalives: a keepalive at P says that every transaction that ended
//! before P was delivered. So P counts as applied as soon as all those are (G8: an idle blue pins
//! no WAL and shows no lag), and not a moment earlier: while anything is in flight P is only
//! remembered.

use decoders::Lsn;
use serde::Serialize;

/// The positions of one stream. Within a run all of them only move forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Frontier {
    received: Lsn,
    /// End of the last transaction that was received: what is in flight lies before it.
    received_transaction: Lsn,
    applied_transaction: Lsn,
    applied: Lsn,
    durable: Lsn,
    acked: Lsn,
    /// Whole transactions received and not applied.
    in_flight: u64,
}

impl Frontier {
    /// A stream that resumes: everything up to `durable` is done, and the last transaction on green
    /// ended at `transaction`. Between the two blue was idle.
    pub fn resume(durable: Lsn, transaction: Lsn) -> Self {
        assert!(transaction <= durable, "resuming at {durable}, before green's {transaction}");
        Self {
            received: durable,
            received_transaction: transaction,
            applied_transaction: transaction,
            applied: durable,
            durable,
            acked: durable,
            in_flight: 0,
        }
    }

    /// Nobody applies any more. Of what green has committed, it may lose what is not durable, and the next
    /// run begins where it is then.
    pub fn keep_durable(&mut self) {
        let (durable, transaction) = (self.durable, self.applied_transaction.min(self.durable));
        *self = Self { acked: self.acked, ..Self::resume(durable, transaction) };
    }

    /// A whole transaction came out of the source.
    pub fn transaction_received(&mut self, end: Lsn) {
        assert!(
            end > self.received_transaction,
            "the source went back: a transaction that ends at {end} after one at {}",
            self.received_transaction
        );
        self.received_transaction = end;
        self.in_flight += 1;
        self.received = self.received.max(end);
        self.check();
    }

    /// The source said that it is at `position` and that nothing is open.
    pub fn idle(&mut self, position: Lsn) {
        self.received = self.received.max(position);
        self.settle();
        self.check();
    }

    /// Green has committed `count` more transactions, everything up to the one that ends at `end`.
    pub fn transactions_applied(&mut self, end: Lsn, count: u64) {
        assert!(
            end <= self.received_transaction,
            "applied {end} was never received (received {})",
            self.received_transaction
        );
        self.applied_transaction = self.applied_transaction.max(end);
        self.applied = self.applied.max(end);
        self.in_flight = self.in_flight.saturating_sub(count);
        self.settle();
        self.check();
    }

    /// The checkpoint now says `position`.
    pub fn checkpointed(&mut self, position: Lsn) {
        assert!(
            position <= self.applied,
            "checkpoint {position} is beyond what is applied ({})",
            self.applied
        );
        self.durable = self.durable.max(position);
        self.check();
    }

    /// Blue was told that it may forget up to `position`.
    pub fn acknowledged(&mut self, position: Lsn) {
        assert!(
            position <= self.durable,
            "acknowledged {position} is beyond what is durable ({})",
            self.durable
        );
        self.acked = self.acked.max(position);
        self.check();
    }

    /// Transactions received and not applied.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether everything received is applied.
    pub fn is_settled(&self) -> bool {
        self.in_flight == 0 && self.applied_transaction == self.received_transaction
    }

    /// Newest position that came out of the source.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Everything up to here is on green. A crash of green may take back what is not durable; then the run
    /// ends, and so does this.
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// End of the last transaction that green has committed.
    pub fn applied_transaction(&self) -> Lsn {
        self.applied_transaction
    }

    /// Everything up to here is on green and in the checkpoint.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Blue was told that it may forget up to here.
    pub fn acked(&self) -> Lsn {
        self.acked
    }

    fn settle(&mut self) {
        if self.is_settled() {
            self.applied = self.received;
        }
    }

    fn check(&self) {
        assert!(
            self.acked <= self.durable
                && self.durable <= self.applied
                && self.applied <= self.received,
            "positions out of order: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_keepalive_does_not_overtake_what_is_in_flight() {
        let mut frontier = Frontier::resume(Lsn(100), Lsn(100));
        frontier.transaction_received(Lsn(200));
        frontier.idle(Lsn(300));
        assert_eq!(frontier.applied(), Lsn(100));
        frontier.transactions_applied(Lsn(200), 1);
        assert_eq!(frontier.applied(), Lsn(300));
    }

    #[test]
    fn an_idle_source_moves_by_keepalives_alone() {
        let mut frontier = Frontier::resume(Lsn(100), Lsn(100));
        frontier.idle(Lsn(500));
        assert_eq!(frontier.applied(), Lsn(500));
        frontier.checkpointed(Lsn(500));
        frontier.acknowledged(Lsn(500));
        assert_eq!(frontier.acked(), Lsn(500));
    }

    #[test]
    #[should_panic(expected = "beyond what is durable")]
    fn blue_is_never_told_before_the_checkpoint() {
        let mut frontier = Frontier::resume(Lsn(100), Lsn(100));
        frontier.idle(Lsn(500));
        frontier.acknowledged(Lsn(500));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Receive(u64),
        Idle(u64),
        Apply,
        Checkpoint,
        Acknowledge,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..50u64).prop_map(Step::Receive),
            (0..50u64).prop_map(Step::Idle),
            Just(Step::Apply),
            Just(Step::Checkpoint),
            Just(Step::Acknowledge),
        ]
    }

    proptest! {
        /// Against a model that keeps every event: `applied` is the newest position such that every
        /// transaction that ended at or before it has been applied.
        #[test]
        fn applied_is_what_the_naive_model_says(steps in proptest::collection::vec(step(), 1..80)) {
            let mut frontier = Frontier::resume(Lsn(0), Lsn(0));
            let mut in_flight: Vec<u64> = Vec::new();
            let (mut head, mut newest_said, mut newest_applied) = (0u64, 0u64, 0u64);
            for step in steps {
                match step {
                    Step::Receive(by) => {
                        head += by;
                        in_flight.push(head);
                        newest_said = newest_said.max(head);
                        frontier.transaction_received(Lsn(head));
                    }
                    Step::Idle(by) => {
                        head += by;
                        newest_said = newest_said.max(head);
                        frontier.idle(Lsn(head));
                    }
                    Step::Apply => if !in_flight.is_empty() {
                        newest_applied = in_flight.remove(0);
                        frontier.transactions_applied(Lsn(newest_applied), 1);
                    },
                    Step::Checkpoint => frontier.checkpointed(frontier.applied()),
                    Step::Acknowledge => frontier.acknowledged(frontier.durable()),
                }
                let model = if in_flight.is_empty() { newest_said } else {
                    newest_applied.max(frontier.applied().0)
                };
                prop_assert_eq!(frontier.applied().0, model);
                if let Some(oldest) = in_flight.first() {
                    prop_assert!(frontier.applied().0 < *oldest);
                }
            }
        }
    }
}
