//! Which tables a reader reads.

use crate::change::QualifiedName;
use crate::mysql::server::literal;

/// Tables, as a condition for each view of `information_schema`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope<'a> {
    All,
    Database(&'a str),
    Table(&'a QualifiedName),
}

impl Scope<'_> {
    /// The condition on a view's columns that hold a table's schema and name.
    pub(super) fn condition(self, schema_column: &str, name_column: &str) -> String {
        match self {
            Scope::All => format!(
                "{schema_column} NOT IN ('mysql', 'sys', 'information_schema',
                                         'performance_schema', '_cutover')"
            ),
            Scope::Database(database) => format!("{schema_column} = {}", literal(database)),
            Scope::Table(QualifiedName { schema, name }) => {
                let (schema, name) = (literal(schema), literal(name));
                format!("{schema_column} = {schema} AND {name_column} = {name}")
            }
        }
    }
}
