//! Rows of the target that a verification has found to differ are made equal to the source's, while
//! clients write and the stream goes on.
//!
//! # Why it can't lose a newer change, nor fight with the stream
//! The stream is held at one moment of the source ([`slices::moment`]): the target has the transactions
//! of a position P, no others, and none is under way there but the parts of a large one that nobody
//! sees. In this moment, in one transaction of the target for each group of rows:
//!
//! 1. the mark ([`Repairer::begin`]);
//! 2. the source's rows in the snapshot of P, and the target's, locked;
//! 3. what differs is written, each row's count checked, and committed, unless a run has begun, a side was
//!    decided on, or the moment has become too old.
//!
//! Claim: the target holds of these rows what the source had at P, and what the stream still has to bring
//! was committed behind P.
//!
//! - Nothing on the target is newer than P while it is held, so nothing newer is overwritten.
//! - COMMIT is sent only while the target is held and all rows that are written are locked. If we are cut
//!   off then and the stream goes on, its next change of such a row waits for our end: it finds the row as
//!   the source had it at P, or, if the commit did not come about, as it was before.
//! - A statement that is still waiting for a lock when we give up may run behind the stream, but its
//!   transaction has no COMMIT and ends with the session.
//!
//! Progress is not touched. The mark is the change that the appliers' transactions begin with, so a stream
//! the other way round leaves ours out; they are in the target's own log, for its replicas.
//!
//! **Nobody's own writes are overwritten.** Clients write to a target only once a run has decided to open
//! it. The decision rows are asked for behind the locks; if one is made later, whoever it lets in waits at
//! our locks. A row that is to be added and was added by somebody else is refused by its key.
//!
//! **Rows without a key** are taken by their content: of each one that differs in number, as many are
//! added or removed as are missing or too many. The whole table is read for it while the stream waits, so
//! it may not be large.
//!
//! Foreign keys are not checked and nothing cascades, as the rows are the source's, which refer to rows
//! that the source has; whatever the target lacks of those is a difference of its own.

mod again;
mod changes;
#[cfg(test)]
mod fixture;
mod groups;
mod images;
mod job;
mod keyed;
mod loose;
mod objects;
mod plan;
mod site;
mod subjects;

pub(in crate::verify) use job::{Asked, repair};
pub(in crate::verify) use plan::planned;
