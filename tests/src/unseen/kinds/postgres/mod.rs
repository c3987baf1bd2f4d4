//! Kinds of changes of PostgreSQL.

mod objects;
mod partitions;
mod rights;
mod tables;

use super::Kind;

/// All of them, in a fixed order.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    [tables::KINDS, partitions::KINDS, objects::KINDS, rights::KINDS].into_iter().flatten()
}
