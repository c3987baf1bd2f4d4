//! The copy of what is there already, from MySQL or MariaDB to the same family.
//!
//! `snapshot` opens several sessions on blue that see one moment, and knows which transactions that
//! moment has. `chunks` cuts tables by key, `columns` and `insert` make statements of rows that store
//! every value as it is, and the mark of a chunk (`marks`) commits together with its rows. After a
//! crash, `refresh` brings finished chunks to a new snapshot. `turn` keeps copies apart.

mod chunks;
mod columns;
mod error;
mod insert;
mod marks;
mod meter;
mod queue;
mod refresh;
mod run;
mod setup;
pub(crate) mod snapshot;
mod turn;
mod worker;

pub use chunks::CHUNK_BYTES;
pub(crate) use chunks::{CutKey, chunk_rows, cut_key};
pub(crate) use error::{failed, of_catalog, of_source};
pub use marks::record_copied;
pub(crate) use marks::{NOT_THERE, Range, forget_table};
pub use run::{Copied, RowCopy};
pub use setup::{SetUp, SetUpDone};
pub use turn::{Epoch, Turn};
