//! Where a stream resumes, from what three places say; pure.
//!
//! Green's progress is the truth about what was applied. The checkpoint may stand further (an
//! idle blue moved on) and is what blue was told. The slot must stand at or before the checkpoint:
//! it never goes further by itself.

use decoders::Lsn;
use sinks::Reached;

use crate::store::Checkpoint;

/// What is known when a stream is about to resume.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where the slot's stream began: the backfill holds everything before.
    pub consistent_point: Lsn,
    /// What green has.
    pub green: Reached,
    /// The local checkpoint; `None` before the first one.
    pub checkpoint: Option<Checkpoint>,
    /// The slot's `confirmed_flush_lsn`.
    pub slot: Lsn,
}

/// Where to resume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resume {
    /// The stream is asked for from here; what ends before is dropped.
    pub from: Lsn,
    /// Every transaction that ends here or before is on green, and one ends here, or the stream
    /// begins here.
    pub transaction: Lsn,
    /// Commits of transactions behind `transaction` that are on green too, ascending: dropped when
    /// they come.
    pub beyond: Vec<Lsn>,
}

/// Why the stream can't resume without losing changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// Green has less than it once confirmed.
    #[error(
        "green has lost commits: its progress row says {green}, but {confirmed} was committed there \
         before (restored from a backup, or crashed with fsync=off?)"
    )]
    GreenWentBack {
        /// Green's progress now.
        green: Lsn,
        /// What it had confirmed.
        confirmed: Lsn,
    },
    /// The slot was moved past what we have.
    #[error(
        "the slot stands at {slot}, beyond what this replicator has applied ({durable}): somebody \
         advanced or re-created it, and the changes between are gone"
    )]
    SlotMoved {
        /// The slot's position.
        slot: Lsn,
        /// What we hold.
        durable: Lsn,
    },
}

impl Broken {
    /// The only remedy there is.
    pub const REMEDY: &str = "blue is untouched and serving. The copy has to be made again: \
         stop this sidecar (SIGTERM), `replicator teardown`, empty green, `replicator run`";
}

/// Where to resume.
///
/// # Errors
/// [`Broken`] when changes are missing between the slot and green.
pub fn resume(known: Known) -> Result<Resume, Broken> {
    let Reached { through, beyond } = known.green;
    let transaction = through.unwrap_or(known.consistent_point).max(known.consistent_point);
    // Without a checkpoint blue was never told anything: the slot stands where it was made.
    let checkpoint = known.checkpoint.unwrap_or(Checkpoint {
        durable: known.consistent_point,
        applied_transaction: known.consistent_point,
        position: None,
    });
    if transaction < checkpoint.applied_transaction {
        let confirmed = checkpoint.applied_transaction;
        return Err(Broken::GreenWentBack { green: transaction, confirmed });
    }
    let from = transaction.max(checkpoint.durable);
    if known.slot > from {
        return Err(Broken::SlotMoved { slot: known.slot, durable: from });
    }
    Ok(Resume { from, transaction, beyond })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Reached = Reached { through: None, beyond: Vec::new() };
    const KNOWN: Known =
        Known { consistent_point: Lsn(100), green: NOTHING, checkpoint: None, slot: Lsn(100) };

    fn through(end: u64) -> Reached {
        Reached::through(Lsn(end))
    }

    fn checkpoint(durable: u64, applied_transaction: u64) -> Option<Checkpoint> {
        let applied_transaction = Lsn(applied_transaction);
        Some(Checkpoint { durable: Lsn(durable), applied_transaction, position: None })
    }

    #[test]
    fn a_fresh_stream_begins_at_the_consistent_point() {
        let at = resume(KNOWN).unwrap();
        assert_eq!(at, Resume { from: Lsn(100), transaction: Lsn(100), beyond: Vec::new() });
    }

    #[test]
    fn green_ahead_of_the_checkpoint_wins() {
        let known = Known { green: through(300), checkpoint: checkpoint(200, 200), ..KNOWN };
        assert_eq!(resume(known).unwrap().from, Lsn(300));
    }

    #[test]
    fn an_idle_checkpoint_ahead_of_green_wins() {
        let known = Known {
            green: through(200),
            checkpoint: checkpoint(500, 200),
            slot: Lsn(500),
            ..KNOWN
        };
        assert_eq!(
            resume(known).unwrap(),
            Resume { from: Lsn(500), transaction: Lsn(200), beyond: Vec::new() }
        );
    }

    #[test]
    fn what_some_lanes_have_beyond_the_others_is_dropped_later() {
        let green = Reached { through: Some(Lsn(200)), beyond: vec![Lsn(220), Lsn(240)] };
        let known = Known { green, checkpoint: checkpoint(230, 200), ..KNOWN };
        let at = resume(known).unwrap();
        assert_eq!((at.from, at.transaction), (Lsn(230), Lsn(200)));
        assert_eq!(at.beyond, [Lsn(220), Lsn(240)]);
    }

    #[test]
    fn a_slot_beyond_the_checkpoint_is_a_gap() {
        let known = Known {
            green: through(200),
            checkpoint: checkpoint(500, 200),
            slot: Lsn(501),
            ..KNOWN
        };
        let broken = resume(known).unwrap_err();
        assert_eq!(broken, Broken::SlotMoved { slot: Lsn(501), durable: Lsn(500) });
    }

    #[test]
    fn a_green_that_went_back_is_refused() {
        let known = Known { green: through(200), checkpoint: checkpoint(500, 300), ..KNOWN };
        let broken = resume(known).unwrap_err();
        assert_eq!(broken, Broken::GreenWentBack { green: Lsn(200), confirmed: Lsn(300) });
    }

    #[test]
    fn without_a_checkpoint_nobody_may_have_moved_the_slot() {
        let known = Known { slot: Lsn(101), ..KNOWN };
        let broken = resume(known).unwrap_err();
        assert_eq!(broken, Broken::SlotMoved { slot: Lsn(101), durable: Lsn(100) });
        // Green got ahead of a checkpoint that a crash kept from being written.
        let known = Known { green: through(200), ..KNOWN };
        assert_eq!(resume(known).unwrap().from, Lsn(200));
    }
}
