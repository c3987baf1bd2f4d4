//! The normalized change: what every decoder promises and every sink accepts.
//!
//! Only `std`, `bytes` and `serde` are used here, so the vocabulary can move to a package of its
//! own by moving one folder.

mod definition;
mod distributed;
mod event;
mod form;
mod position;
mod row;
mod schema;

pub use definition::{Definition, Retyped, Safety, Setting};
pub use distributed::Distributed;
pub use event::{ChangeEvent, OldRow, Part, Transaction, UNTOLD_ORIGIN};
pub use form::{ColumnForm, RowForm};
pub use position::{Lsn, ParseLsnError, Position};
pub use row::{Cell, Row, RowBuilder, RowImage, Value};
pub use schema::{Column, Generated, QualifiedName, ReplicaIdentity, TableId, TableSchema};
