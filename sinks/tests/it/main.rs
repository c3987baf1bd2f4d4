//! The lane against real servers: `SINKS_TEST_PG=17 cargo test -p sinks` chooses the major.

mod ahead;
mod bulk;
mod crash;
mod flush;
mod house;
mod lanes;
mod net;
mod property;
mod refuse;
mod rights;
mod rows;
mod sets;
mod stream;
mod support;
