//! PostgreSQL: connections, the replication stream, catalogs.

pub mod pgoutput;
pub mod frame;
pub mod types;
