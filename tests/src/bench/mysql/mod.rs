//! Blue of MySQL or MariaDB and two greens: `ours`, fed by the replicator, and `native`, a replica of
//! the server's own with four parallel workers. The second begins as a file copy of the first.

mod catchup;
mod greens;

use crate::mysql::Version;

pub use catchup::run as catchup;
pub use greens::{DATABASE, Greens};

/// From a version to another.
pub type Versions = (Version, Version);

pub const MARIADB: Versions = (Version::Mariadb10_11, Version::Mariadb11_8);
pub const MYSQL: Versions = (Version::Mysql9_7, Version::Mysql9_7);
