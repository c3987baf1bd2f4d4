//! Kinds of changes of MySQL and MariaDB. All are root's, each in a session of its own.

mod accounts;
mod objects;
mod partitions;
mod settings;
mod tables;
mod unlogged;

use super::Kind;

/// All of them, in a fixed order.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    let parts = [
        tables::KINDS,
        partitions::KINDS,
        objects::KINDS,
        unlogged::KINDS,
        accounts::KINDS,
        settings::KINDS,
    ];
    parts.into_iter().flatten()
}
