//! What the benches stand on: two servers with two greens on one of them, what a run cost, and the
//! one line of JSON that each bench ends with.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`options`] | how many rounds, how large: the environment |
//! | [`report`] | median, spread, the line of JSON |
//! | [`usage`] | CPU seconds and memory of processes, from `/proc` |
//! | [`pair`] | blue, and green twice: ours and PostgreSQL's own subscription |
//! | [`sides`] | starting, awaiting and stopping one of the two |
//! | [`catchup`] | rounds of: a backlog grows while both are down, then each works it off alone |
//! | [`turns`] | tools that do the same, by turns |
//! | [`mysql`] | the same for MySQL and MariaDB, beside the server's own replica |

pub mod catchup;
pub mod mysql;
pub mod options;
pub mod pair;
pub mod report;
pub mod sides;
pub mod turns;
pub mod usage;
