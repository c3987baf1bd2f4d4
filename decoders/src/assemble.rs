//! Messages of one replication stream, put together into whole transactions.
