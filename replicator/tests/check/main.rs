//! The preflight against real servers: databases full of faults, each of which has to be named,
//! and each suggested statement has to make its finding go away.

mod code;
mod deep;
mod existing;
mod faults;
mod mysql;
mod mysql_flip;
mod mysql_options;
mod pairs;
mod reach;
mod support;
