//! Is a MySQL or MariaDB the exact copy of another one, while clients write?
//!
//! PostgreSQL's rows carry a version, so a row that looks different there is looked at again until it
//! rests. These servers show no version of a row. So nothing is looked at twice here: both sides are
//! read in snapshots of one moment, and what differs in them differs. No rule about rows that move is
//! needed, none is in motion, and none stays unsettled.
//!
//! **The moment.** [`Stream::hold`] first lets nothing begin on the target. Then sessions are opened on
//! the source that see one moment, of which the position is known (the copy's snapshot, which has the
//! proof). [`Held::reach`] applies what the target lacks of exactly that position; sessions opened on
//! it now, before the hold is dropped, see the same transactions. (On MySQL, and on a MariaDB where
//! somebody always commits, commits are held for the milliseconds that opening the sessions takes.) It would not do to name a position
//! first and let the stream run: the source's position is only known once its snapshots are open, and
//! by then the target may have passed it. The target stands for as long as that takes, which is
//! milliseconds, and never longer than 3 s at a time; it is not held at all while it is far behind, and where
//! no moment can be had (a long statement on the source), it is left alone for longer each time. A target that is beyond the moment all the same (a
//! transaction is sent before its rows are visible) is let go and another moment is looked for.
//!
//! **Slices.** A snapshot keeps InnoDB from throwing old versions away, so the work is done in slices
//! of bounded time, each with snapshots of its own, and the list of chunks goes on over all of them
//! (`line`). A chunk is begun and ended in one slice. A table without a key is one chunk, however
//! long that takes: a snapshot is kept for that.
//!
//! **Equal** are two chunks whose number of rows and two sums over independent halves of the rows'
//! hashes are the same: SHA-256, the one hash that all versions of both families have. Everything else
//! is settled here, value by value, in a form that is no server's own (`canonical` has the table). In
//! mode `full` that is done at once.
//!
//! | module | what it does |
//! |---|---|
//! | `job` | one verification from its request to its report |
//! | `slices` | pairs of snapshots; what the stream has to be able to do |
//! | `line` | chunks, in order, over all slices |
//! | `plan`, `canonical`, `json` | what is read of a table; what a value is |
//! | `compare` | a chunk: sums, then rows |
//! | `count` | how many rows both sides have, before a run |
//! | `definitions`, `table_options`, `objects` | everything that is no row |
//! | `clients` | whom to spare on the source; how is `super::gate`'s |
//! | `keys` | rows by the keys that a report shows |
//! | `rechecking` | rows that were written since, looked at again |
//! | `found`, `repair` | what was found, made right |
//! | `side` | sessions |
//! | `engine` | a pipeline's stream, held at a position |
//! | `pair` | what a pipeline verifies |

mod canonical;
mod clients;
mod compare;
mod count;
mod definitions;
mod engine;
mod found;
mod job;
mod json;
mod keys;
mod line;
mod objects;
mod pair;
mod plan;
mod rechecking;
pub(in crate::verify) mod repair;
mod side;
mod slices;
mod table_options;

pub use count::Counting;
pub use engine::EngineStream;
pub(in crate::verify) use found::Found;
pub use job::{SLICE, Verification};
pub(crate) use objects::differences;
pub use pair::BinlogPair;
pub(in crate::verify) use rechecking::BinlogLooker;
pub use slices::{Held, Reached, Stream};
