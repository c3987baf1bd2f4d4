//! Whether green's tables are what blue's are, column by column. What the servers were told is not
//! trusted; what they made of it is compared.

use decoders::mysql::catalog::{ColumnInfo, TableInfo, TableKind};

use super::make::qualified;
use crate::backfill::BackfillError;

/// What differs without harm to the rows, for people.
///
/// # Errors
/// Something differs that changes what values are stored or how they compare.
pub(super) fn compare(
    blue: &[TableInfo],
    green: &[TableInfo],
) -> Result<Vec<String>, BackfillError> {
    let (mut wrong, mut notable) = (Vec::new(), Vec::new());
    for table in blue.iter().filter(|table| table.kind != TableKind::Sequence) {
        let name = qualified(&table.name);
        let Some(other) = green.iter().find(|other| other.name == table.name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        if canonical_name(table.collation.as_deref()) != canonical_name(other.collation.as_deref())
        {
            wrong.push(format!("the collation of {name}"));
        }
        if table.engine != other.engine {
            wrong.push(format!("the engine of {name}"));
        }
        if table.columns.len() != other.columns.len() {
            wrong.push(format!("the number of columns of {name}"));
            continue;
        }
        for (one, two) in table.columns.iter().zip(&other.columns) {
            let column = format!("{name}.{}", one.name);
            if essence(one) != essence(two) {
                wrong.push(column);
            } else if default(one) != default(two) {
                notable.push(format!("the default of {column} is shown differently on green"));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(notable);
    }
    let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    Err(BackfillError::halt(
        format!("green made other tables of blue's definitions: {shown}"),
        "create these tables on green by hand and use schema.mode = 'existing', or exclude them",
    ))
}

/// What decides what is stored and how it compares.
fn essence(column: &ColumnInfo) -> impl PartialEq {
    (
        column.name.clone(),
        plain_type(&column.column_type),
        column.nullable,
        canonical_name(column.charset.as_deref()),
        canonical_name(column.collation.as_deref()),
        column.generated.as_ref().map(|(stored, _)| *stored),
        column.invisible,
        column.auto_increment,
    )
}

/// MySQL 8.0.19 stopped showing the width of integers, which means nothing without ZEROFILL.
pub(crate) fn plain_type(text: &str) -> String {
    let is_integer = ["tinyint", "smallint", "mediumint", "int", "bigint"];
    let (name, rest) = text.split_once('(').unwrap_or((text, ""));
    match rest.split_once(')') {
        Some((_, after)) if is_integer.contains(&name) && !after.contains("zerofill") => {
            format!("{name}{after}")
        }
        _ => text.to_owned(),
    }
}

/// `utf8` and `utf8mb3` are one character set under two names.
pub(crate) fn canonical_name(name: Option<&str>) -> Option<String> {
    let name = name?;
    Some(match name.strip_prefix("utf8") {
        Some("") => "utf8mb3".to_owned(),
        Some(rest) if rest.starts_with('_') => format!("utf8mb3{rest}"),
        _ => name.to_owned(),
    })
}

fn default(column: &ColumnInfo) -> Option<String> {
    column.default.as_ref().map(|text| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_names_that_mean_nothing_do_not_differ() {
        assert_eq!(plain_type("int(11) unsigned"), "int unsigned");
        assert_eq!(plain_type("int(5) unsigned zerofill"), "int(5) unsigned zerofill");
        assert_eq!(plain_type("varchar(5)"), "varchar(5)");
        assert_eq!(canonical_name(Some("utf8_bin")), canonical_name(Some("utf8mb3_bin")));
        assert_eq!(canonical_name(Some("utf8mb4_bin")).as_deref(), Some("utf8mb4_bin"));
    }
}
