//! From a change event to the statement that repeats it: the only place that builds SQL for rows.
//!
//! A [`TablePlan`] fits one version of a source table to green's table, or says why they don't
//! fit. It gives each change a [`Shape`]; changes of one shape share a [`RowStatement`], which
//! says what to prepare and where each parameter's value comes from. Many rows that are alike share a
//! [`SetStatement`]. Nothing here talks to a server.

mod bind;
mod inner_oids;
pub(crate) mod one_row;
mod set;
mod shape;
mod sql;

pub(crate) use bind::check_triggers;
pub use bind::{Fire, TablePlan};
pub(crate) use inner_oids::FIRST_VARIABLE_TYPE;
pub use inner_oids::InnerOids;
pub use set::{CopyFormat, SetShape, SetStatement};
pub use shape::{ColumnSet, IdentityColumn, OldImage, Shape};
pub use sql::{ParamType, RowStatement, Slot, truncate};
