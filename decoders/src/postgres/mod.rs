//! PostgreSQL: connections, the replication stream, catalogs.
