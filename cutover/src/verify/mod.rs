//! Proof that one side is the other: what is asked for, what is found, and the rules by which a
//! row that looks different is a difference.
//!
//! Nothing here touches a server. [`suspect`] decides when a row that was seen to differ while
//! clients write really differs; [`objects`] compares what is not rows; [`sample`] says which chunks
//! a sample takes and what that is worth; [`wire`] is what the sidecar and the command exchange,
//! [`repair`] the same about making the sides equal; [`continuous`] is about one that goes on;
//! [`definitions`] says what differences of definitions mean for a run, and [`accepted`] which of them
//! somebody has taken as they are.

pub mod accepted;
pub mod continuous;
pub mod definitions;
mod gate;
mod markdown;
pub mod objects;
mod predicate;
pub mod repair;
pub mod sample;
pub mod suspect;
pub mod wire;

pub use accepted::{Accepted, accepting};
pub use gate::{Known, REQUIRED_BY_DEFAULT, Requirement};
pub use predicate::{Condition, Dialect, Predicate};
pub use wire::{
    HeldBy, KeyPart, Limit, Mode, ObjectFinding, Progress, Resumed, RowDifference, RowKind,
    SampleWorth, TableReport, Verdict, VerifyReport, VerifyRequest, VerifyState, VerifyStatus,
};
