//! What an operator has chosen: tables, and rows of tables.

use cutover::verify::{Condition, Dialect, VerifyRequest};
use decoders::QualifiedName;
use decoders::postgres::catalog::TablePattern;

use super::plan::TablePlan;
use super::reader::{Reader, Trouble};

/// The tables and conditions of a request.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    tables: Vec<TablePattern>,
    predicates: Vec<(TablePattern, Said)>,
}

/// A condition, as it was said and what it says.
type Said = (String, Condition);

/// Which rows of a table are compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Restriction {
    /// In the operator's words.
    pub said: String,
    /// In the servers' SQL, in parentheses of its own.
    pub sql: String,
}

impl Chosen {
    /// Of a request.
    ///
    /// # Errors
    /// A pattern or a condition that can't be one; one sentence.
    pub fn of(request: &VerifyRequest) -> Result<Self, String> {
        let pattern = |text: &String| text.parse::<TablePattern>().map_err(|e| e.to_string());
        let tables = request.tables.iter().map(pattern).collect::<Result<_, _>>()?;
        let mut predicates = Vec::new();
        for predicate in &request.predicates {
            let said = (predicate.condition.clone(), predicate.condition()?);
            predicates.push((pattern(&predicate.table)?, said));
        }
        Ok(Self { tables, predicates })
    }

    /// Whether a table is to be compared.
    pub fn takes(&self, table: &QualifiedName) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|pattern| pattern.matches(table))
    }

    /// The condition on a table's rows.
    ///
    /// # Errors
    /// There are several.
    pub fn restriction(
        &self,
        table: &QualifiedName,
        dialect: Dialect,
    ) -> Result<Option<Restriction>, Trouble> {
        let mut found = self.predicates.iter().filter(|(pattern, _)| pattern.matches(table));
        let first = found.next().map(|(_, (said, condition))| Restriction {
            said: said.clone(),
            sql: condition.printed(dialect),
        });
        match found.next() {
            Some(_) => Err(Trouble::new("request", format!("{table} has several conditions"))),
            None => Ok(first),
        }
    }

    /// Each condition has to be for one of these tables, which are compared.
    ///
    /// # Errors
    /// Otherwise.
    pub fn check_names<'a>(
        &self,
        tables: impl Iterator<Item = &'a QualifiedName> + Clone,
    ) -> Result<(), Trouble> {
        for (pattern, (condition, _)) in &self.predicates {
            if !tables.clone().any(|table| pattern.matches(table)) {
                let what = format!("the condition {condition} is for no table that is compared");
                return Err(Trouble::new("request", what));
            }
        }
        Ok(())
    }

    /// Each condition has to be for a table, and one that both sides understand.
    ///
    /// # Errors
    /// Otherwise.
    pub async fn check(&self, plans: &[&TablePlan], sides: [&Reader; 2]) -> Result<(), Trouble> {
        self.check_names(plans.iter().map(|plan| &plan.name))?;
        for sql in plans.iter().filter_map(|plan| plan.predicate_sql()) {
            for side in sides {
                side.check(&sql).await?;
            }
        }
        Ok(())
    }
}
