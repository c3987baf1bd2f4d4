//! The cutover's write-ahead journal.

pub(super) const FAMILY: &str = "journal";
