//! A part of a table: the rows for which an operator's condition holds.
//!
//! A condition is not SQL that is passed on: it would run with the rights of our role, on both servers. It is read
//! here ([`grammar`]), by a grammar that has columns, literals and comparisons and nothing that could call or
//! select, and written again from what was read ([`print`]).

mod grammar;
mod print;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use grammar::Condition;
pub use print::Dialect;

/// A condition on the rows of one table, or of several with such a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicate {
    /// Pattern of the table, `schema.table` with `*` and `?`.
    pub table: String,
    /// As [`Condition`] reads it.
    pub condition: String,
}

impl FromStr for Predicate {
    type Err = String;

    /// `TABLE: CONDITION`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "TABLE: CONDITION, for example 'public.orders: id > 1000'".to_owned();
        let (table, condition) = text.split_once(':').ok_or_else(form)?;
        let (table, condition) = (table.trim().to_owned(), condition.trim().to_owned());
        if table.is_empty() || condition.is_empty() {
            return Err(form());
        }
        Ok(Self { table, condition })
    }
}

impl Predicate {
    /// What the condition says. Whether its columns exist is for the servers to say.
    ///
    /// # Errors
    /// Why it is none, one sentence.
    pub fn condition(&self) -> Result<Condition, String> {
        let refused = |why| format!("the condition on {}: {why}", self.table);
        Condition::read(&self.condition).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_before_the_first_colon() {
        let found: Predicate = "public.orders: id > 1000 AND at < '12:00'".parse().unwrap();
        assert_eq!(found.table, "public.orders");
        assert_eq!(found.condition, "id > 1000 AND at < '12:00'");
        for wrong in ["id > 1000", "orders:", ": id > 1"] {
            assert!(wrong.parse::<Predicate>().is_err(), "{wrong}");
        }
    }
}
