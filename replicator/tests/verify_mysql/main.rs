//! Whether a MySQL or MariaDB is the exact copy of another one: every damage is found, and nothing
//! that is none.

mod counting;
mod cross;
mod damage;
mod objects;
mod sparing;
mod support;
mod traffic;
mod types;

#[path = "../copy_mysql/types.rs"]
mod rows;
#[path = "../copy_mysql/support.rs"]
mod servers;
