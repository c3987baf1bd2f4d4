//! The start of a move between servers of MySQL or MariaDB: schema, snapshot, rows.

mod rows;
mod schema;
mod support;
mod types;
