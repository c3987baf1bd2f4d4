//! The copy of what is there already, from MySQL or MariaDB to the same family.

mod error;
mod marks;

pub(crate) use error::{failed, of_catalog, of_source};
pub(crate) use marks::forget_table;
