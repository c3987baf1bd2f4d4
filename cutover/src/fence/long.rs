//! Sessions that have been at it for a while and that a fence would end, as a plan names them: the same of
//! every engine.

use crate::api::Check;

/// The check under which a plan names them, whichever the engine.
pub(super) const NAME: &str = "long-sessions";
/// Who has been in a statement or transaction for longer is named, seconds.
pub(super) const SECONDS: u32 = 1;
/// So many are named; the rest are counted.
pub(super) const NAMED_MAX: usize = 10;

/// What is said of those of `found` that are not named.
pub(super) fn unnamed(found: usize, place: &str, fix: &str) -> Option<Check> {
    let more = found.checked_sub(NAMED_MAX).filter(|more| *more > 0)?;
    Some(Check::warn(NAME, format!("and {more} more sessions on {place}"), fix))
}
