//! A binlog streamed to another server, with an engine that dies.

mod definitions;
mod distributed;
mod engine;
mod forged;
mod markers;
mod once;
mod workload;
