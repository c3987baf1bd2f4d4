//! See ARCHITECTURE.md.
//! The cutover: moving clients from blue to green without losing a write.
//!
//! - [`phase`] is the whole protocol as a pure function; [`evidence`] holds the proofs that it
//!   asks for, [`ports`] what it needs from the world, [`controller`] the loop between them.
//! - [`fence`], [`sequences`], [`decision`], [`switch`] are those needs for real servers;
//!   [`rehearse`] is all of them again, writing down instead of acting (`plan`, `--dry-run`).
//! - [`proxy`] is a traffic switch of our own, in a process of its own.
//! - [`lag`] measures, [`gate`] decides when to try, [`watch`] looks after it.
//! - [`api`] is what the sidecar's HTTP server and the operator's command exchange; [`service`]
//!   answers those requests.
//!
//! What is absent on purpose: no replication, no storage (the sidecar brings both through
//! [`ports`]), and no way to flip without evidence.

pub mod api;
pub mod audit;
pub mod cli;
pub mod controller;
pub mod counts;
pub mod decision;
pub mod drill;
pub mod evidence;
pub mod failpoint;
pub mod fence;
pub mod gate;
mod ghosts;
mod house;
pub mod hub;
pub mod lag;
pub mod lease;
pub mod login;
pub mod marker;
pub mod phase;
pub mod ports;
pub mod private_file;
pub mod proxy;
mod read_only;
pub mod rehearse;
pub mod report;
pub mod sequences;
pub mod service;
pub mod side;
mod sql;
mod stored;
pub mod switch;
pub mod verify;
pub mod watch;
pub mod way_back;
pub mod world;

pub use phase::Phase;
pub use service::{Defaults, Service};
pub use side::{Direction, Side};
pub use world::{Databases, MysqlPair, MysqlWorld, Pair, PairWorld, PostgresPair, PostgresWorld};
