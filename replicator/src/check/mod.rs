//! The preflight: every obstacle to the move at once, each with what was seen and what to do.
//!
//! [`facts`] asks both databases; each other module judges one family of facts with pure
//! functions. A question that could not be answered is a finding of its own: nothing is ever
//! assumed to be in order.

mod capacity;
mod connection;
mod data;
pub mod deep;
mod empty_green;
mod existing_schema;
mod facts;
pub(crate) mod finding;
mod fixes;
#[cfg(test)]
mod fixture;
mod identity;
mod indexes;
mod judge;
mod legacy;
mod locale;
mod lock_room;
pub mod mysql;
mod powers;
mod privileges;
mod report;
mod request;
mod sequences;
mod slots;
mod target;
mod transactions;
mod trust;
mod unverified;

use tokio_postgres::Client;

pub use connection::{ConnectFailure, FailureKind};
pub use finding::{Finding, Fix, Severity, Side};
pub use fixes::Fixes;
pub use report::Report;
pub use request::CheckRequest;
pub use unverified::unverified;

/// Checks whether the move can start. Takes the sessions as they are, or why there is none, so
/// that an unreachable blue does not hide a wrong password of green.
///
/// Changes nothing on either side, apart from the sessions' `search_path` (empty afterwards).
/// Takes about [`CheckRequest::wal_sample`] and a few dozen small queries.
pub async fn check(
    request: &CheckRequest,
    blue: Result<&Client, ConnectFailure>,
    green: Result<&Client, ConnectFailure>,
) -> Report {
    let facts = facts::gather(request, blue, green).await;
    judge::judge(request, &facts)
}
