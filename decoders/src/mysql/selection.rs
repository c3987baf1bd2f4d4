//! Which tables of a server of MySQL or MariaDB take part.

use crate::change::QualifiedName;
use crate::postgres::catalog::{CONTROL_SCHEMA, TableFilter};

/// Databases that are the servers' own.
pub fn is_system_schema(schema: &str) -> bool {
    matches!(schema, "mysql" | "sys" | "information_schema" | "performance_schema")
}

/// The tables that take part: those of one database or of all, as far as the filter selects them.
/// Never those of the servers and our own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    filter: TableFilter,
    database: Option<String>,
    folds_case: bool,
}

impl Selection {
    /// `folds_case`: the server takes names in any case for the same table (`lower_case_table_names` is
    /// 1 or 2). Its statements then come as somebody spelled them, its rows in lower case.
    pub fn new(filter: TableFilter, database: Option<String>, folds_case: bool) -> Selection {
        let database = database.map(|name| if folds_case { name.to_lowercase() } else { name });
        Selection { filter, database, folds_case }
    }

    /// Whether the table takes part, in whatever spelling the server accepts.
    pub fn takes(&self, name: &QualifiedName) -> bool {
        let name = self.canonical(name);
        self.is_ours(&name.schema) && self.filter.selects(&name)
    }

    /// Whether a table of this database can take part, whatever its name.
    pub fn reaches(&self, database: &str) -> bool {
        let name = self.canonical(&QualifiedName::new(database, ""));
        self.is_ours(&name.schema) && self.filter.reaches(&name.schema)
    }

    /// The name as row events have it.
    pub fn canonical(&self, name: &QualifiedName) -> QualifiedName {
        match self.folds_case {
            true => QualifiedName::new(name.schema.to_lowercase(), name.name.to_lowercase()),
            false => name.clone(),
        }
    }

    fn is_ours(&self, schema: &str) -> bool {
        !is_system_schema(schema)
            && schema != CONTROL_SCHEMA
            && self.database.as_ref().is_none_or(|database| *database == schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str], folds_case: bool) -> Selection {
        Selection::new(TableFilter::parse(include, exclude).unwrap(), None, folds_case)
    }

    #[test]
    fn system_databases_are_those_of_these_servers() {
        let all = Selection::default();
        for (schema, taken) in
            [("mysql", false), ("sys", false), ("_cutover", false), ("pg_stats", true), ("s", true)]
        {
            assert_eq!(all.takes(&QualifiedName::new(schema, "t")), taken, "{schema}");
            assert_eq!(all.reaches(schema), taken, "{schema}");
        }
    }

    #[test]
    fn spellings_count_where_the_server_tells_them_apart() {
        let spelled = QualifiedName::new("Shop", "Orders");
        assert!(!selection(&["shop.orders"], &[], false).takes(&spelled));
        let folding = selection(&["shop.orders"], &[], true);
        assert!(folding.takes(&spelled));
        assert_eq!(folding.canonical(&spelled), QualifiedName::new("shop", "orders"));
        let one = Selection::new(TableFilter::default(), Some("Shop".into()), true);
        assert!(one.takes(&spelled) && one.reaches("SHOP") && !one.reaches("other"));
    }

    #[test]
    fn a_database_is_reached_by_any_pattern_that_can_mean_a_table_of_it() {
        assert!(selection(&["orders"], &[], false).reaches("any"));
        assert!(selection(&["a.*"], &[], false).reaches("a"));
        assert!(!selection(&["a.*"], &[], false).reaches("b"));
        assert!(selection(&[], &["b.x*"], false).reaches("b"));
        assert!(!selection(&[], &["b.*"], false).reaches("b"));
    }
}
