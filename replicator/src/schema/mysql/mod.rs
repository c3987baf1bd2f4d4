//! Green's schema, from MySQL or MariaDB to the same family: as SHOW CREATE prints it on blue, with
//! every collation named, and compared column by column when it is there.
//!
//! Tables come before the rows; keys of large tables, foreign keys, routines, views and events after
//! them. Events are made disabled. Triggers are not made before the flip: their effects are in the
//! binlog already, and the servers can't keep a trigger quiet. [`Notes`] on green keep both, and at the
//! flip [`Automation`] brings them.

mod accounts;
mod automation;
mod compare;
mod defaults;
mod keys;
mod make;
mod notes;
mod session;
mod statement;
mod stored;

pub use accounts::{CarriedAccounts, carry_accounts};
pub(crate) use automation::QUIETLY;
pub use automation::{Automation, Moved};
pub(crate) use compare::{canonical_name, plain_type};
pub(crate) use defaults::restore_collations;
pub(crate) use make::qualified;
pub use make::{LATE_KEYS_BYTES, Made, SchemaCopy};
pub use notes::Notes;
pub(crate) use statement::additions;
