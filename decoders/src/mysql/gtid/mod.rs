//! Identities of transactions: MySQL's `uuid:tag:number` and MariaDB's `domain-server-sequence`,
//! sets of them, and the events that carry them.

mod event;
mod interval;
mod mariadb;
mod parse;
mod position;
mod serialized;
mod set;

pub use event::{Gtid, GtidEvent, Tag};
pub use interval::{Interval, Intervals};
pub use mariadb::{GtidList, GtidPosition, MariadbGtid, MariadbGtidEvent};
pub use parse::ParseGtidError;
pub use position::{BinlogPosition, TransactionId};
pub(super) use set::read_set;
pub use set::{GtidSet, Sid};
