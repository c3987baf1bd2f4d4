//! A part of a table: the rows for which an operator's condition holds.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A condition on the rows of one table, or of several with such a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicate {
    /// Pattern of the table, `schema.table` with `*` and `?`.
    pub table: String,
    /// What would stand behind WHERE. Both servers have to understand it alike.
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
    /// Whether it can stand between parentheses and mean there what it means alone: no second
    /// statement, no parenthesis of ours closed, nothing that could hide one. Whether it is a
    /// condition at all is for the servers to say.
    ///
    /// # Errors
    /// Why not, one sentence.
    pub fn check(&self) -> Result<(), String> {
        let text = &self.condition;
        let refuse = |why: &str| Err(format!("the condition on {}: {why}", self.table));
        let mut depth = 0_u32;
        let mut rest = text.char_indices();
        while let Some((at, character)) = rest.next() {
            let before = text[..at].chars().next_back();
            match character {
                '\'' if matches!(before, Some('e' | 'E')) => {
                    return refuse("strings with escapes (E'..') are not taken");
                }
                // A doubled quote is the end of one string and the start of the next.
                quote @ ('\'' | '"') => {
                    let is_closed = rest.any(|(_, other)| other == quote);
                    if !is_closed {
                        return refuse("a quote is not closed");
                    }
                }
                '(' => depth += 1,
                ')' if depth == 0 => return refuse("a parenthesis is closed that is not open"),
                ')' => depth -= 1,
                ';' => return refuse("one condition, no statements"),
                '$' => return refuse("strings between dollar signs and parameters are not taken"),
                '-' if before == Some('-') => return refuse("comments are not taken"),
                '*' if before == Some('/') => return refuse("comments are not taken"),
                _ => {}
            }
        }
        if depth > 0 {
            return refuse("a parenthesis is not closed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str) -> Result<(), String> {
        Predicate { table: "t".into(), condition: condition.into() }.check()
    }

    #[test]
    fn the_table_stands_before_the_first_colon() {
        let found: Predicate =
            "public.orders: id > 1000 AND at < 'now'::timestamptz".parse().unwrap();
        assert_eq!(found.table, "public.orders");
        assert_eq!(found.condition, "id > 1000 AND at < 'now'::timestamptz");
        for wrong in ["id > 1000", "orders:", ": id > 1"] {
            assert!(wrong.parse::<Predicate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_gets_out_of_its_parentheses() {
        let fine = [
            "id > 1",
            "(a = 1 OR b = 'it''s; (') AND \"x)\" IN (1, 2)",
            "v LIKE '\\_%' AND a - -1 > 0",
            "type = 'x'",
        ];
        for fine in fine {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        let wrong = [
            "true) OR (true",
            "true); DROP TABLE t; SELECT (true",
            "true -- ",
            "true /* ",
            "v = $$)$$",
            "v = E'\\' OR (",
            "v = 'open",
            "(a = 1",
        ];
        for wrong in wrong {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
