//! The documents: pages that are made from the code are what the code says, every entry that has to be there is,
//! and every link leads somewhere.
//!
//! Nothing here runs a server.

mod alerts;
mod checks;
mod cli;
mod config;
mod exits;
mod links;
mod listed;
mod runbook;
mod rust;
mod unseen;
