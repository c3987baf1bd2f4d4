//! Family: does a schema that is on green already fit blue's (`--schema existing`).

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::postgres::catalog::{
    ColumnInfo, ResolvedIdentity, TableInfo, TableKind, TypeDetail, UserType, quote_ident,
    quote_literal,
};

use super::facts::Content;
use super::finding::{Finding, Fix, Side, count};
use super::request::CheckRequest;

type ByName<'a> = BTreeMap<&'a QualifiedName, &'a TableInfo>;

pub(super) fn evaluate(
    request: &CheckRequest,
    blue: &[TableInfo],
    green: &[TableInfo],
) -> Vec<Finding> {
    let green_by_name: ByName<'_> = green.iter().map(|table| (&table.name, table)).collect();
    let wanted: Vec<&TableInfo> = blue.iter().filter(|table| is_target(request, table)).collect();
    let pairs: Vec<(&TableInfo, &TableInfo)> = wanted
        .iter()
        .filter_map(|table| Some((*table, *green_by_name.get(&table.name)?)))
        .collect();
    let mut findings = vec![missing_tables(&wanted, &green_by_name)];
    findings.extend(extra_tables(blue, green));
    findings.extend(missing_columns(&pairs));
    findings.extend(extra_columns(&pairs));
    findings.extend(column_types(&pairs));
    findings.extend(generated_columns(&pairs));
    findings.extend(stricter_columns(&pairs));
    findings.extend(collations(&pairs));
    findings.extend(missing_keys(&pairs));
    findings
}

/// Whether rows arrive on green under this table's name.
fn is_target(request: &CheckRequest, table: &TableInfo) -> bool {
    match table.kind {
        TableKind::Plain => true,
        TableKind::PartitionLeaf => !request.via_partition_root,
        TableKind::PartitionRoot => request.via_partition_root && table.partition_of.is_none(),
    }
}

fn missing_tables(wanted: &[&TableInfo], green: &ByName<'_>) -> Finding {
    let missing: Vec<&QualifiedName> =
        wanted.iter().map(|table| &table.name).filter(|name| !green.contains_key(*name)).collect();
    if missing.is_empty() {
        return Finding::ok("tables-missing", Side::Green, "green has every table")
            .evidence(count(wanted.len(), "table"));
    }
    let patterns: Vec<String> = missing.iter().map(|name| format!("-t '{name}'")).collect();
    Finding::blocker("tables-missing", Side::Green, "tables of blue are missing on green")
        .evidence(count(missing.len(), "table"))
        .objects(missing.iter().map(ToString::to_string).collect())
        .fix(Fix::command(format!(
            "pg_dump --schema-only {} \"$BLUE\" | psql \"$GREEN\"",
            patterns.join(" ")
        )))
}

fn extra_tables(blue: &[TableInfo], green: &[TableInfo]) -> Option<Finding> {
    let known: BTreeSet<&QualifiedName> = blue.iter().map(|table| &table.name).collect();
    let extra: Vec<String> = green
        .iter()
        .filter(|table| table.holds_rows() && !known.contains(&table.name))
        .map(|table| table.name.to_string())
        .collect();
    (!extra.is_empty()).then(|| {
        Finding::warning(
            "tables-extra",
            Side::Green,
            "green has tables that are not moved; they stay",
        )
        .evidence(count(extra.len(), "table"))
        .objects(extra)
    })
}

/// One line and one statement for each column that something is the matter with.
struct Columns {
    objects: Vec<String>,
    statements: Vec<String>,
}

impl Columns {
    fn collect<'a>(
        found: impl Iterator<Item = (&'a TableInfo, &'a ColumnInfo, String, Option<String>)>,
    ) -> Option<Self> {
        let mut columns = Columns { objects: Vec::new(), statements: Vec::new() };
        for (table, column, remark, alter) in found {
            let name = quote_ident(&column.name);
            columns.objects.push(format!("{}.{name}{remark}", table.name));
            if let Some(alter) = alter {
                columns.statements.push(format!("ALTER TABLE {} {alter}", table.name));
            }
        }
        (!columns.objects.is_empty()).then_some(columns)
    }

    fn into_finding(self, finding: Finding) -> Finding {
        let finding = finding.evidence(count(self.objects.len(), "column")).objects(self.objects);
        if self.statements.is_empty() {
            finding
        } else {
            finding.fix(Fix::sql(Side::Green, self.statements))
        }
    }
}

fn missing_columns(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let found = pairs.iter().flat_map(|(blue, green)| {
        blue.copied_columns().filter(|c| green.column_named(&c.name).is_none()).map(|column| {
            let name = quote_ident(&column.name);
            let add = format!("ADD COLUMN {name} {}", column.type_name);
            (*green, column, format!(" {}", column.type_name), Some(add))
        })
    });
    let columns = Columns::collect(found)?;
    let summary = "columns of blue are missing on green";
    Some(columns.into_finding(Finding::blocker("columns-missing", Side::Green, summary)))
}

fn extra_columns(pairs: &[(&TableInfo, &TableInfo)]) -> Vec<Finding> {
    let extra = || {
        pairs.iter().flat_map(|(blue, green)| {
            green
                .copied_columns()
                .filter(|column| blue.column_named(&column.name).is_none())
                .map(|column| (*green, column))
        })
    };
    let demands =
        |column: &ColumnInfo| column.not_null && !column.has_default && column.identity.is_none();
    let required = Columns::collect(extra().filter(|(_, c)| demands(c)).map(|(table, column)| {
        let name = quote_ident(&column.name);
        let drop = format!("DROP COLUMN {name}");
        (table, column, " NOT NULL".to_owned(), Some(drop))
    }));
    let optional = Columns::collect(extra().filter(|(_, c)| !demands(c)).map(|(table, column)| {
        let drop = format!("DROP COLUMN {}", quote_ident(&column.name));
        (table, column, String::new(), Some(drop))
    }));
    let mut findings = Vec::new();
    if let Some(columns) = required {
        let summary = "green has columns that blue lacks and that must not be NULL";
        findings.push(columns.into_finding(Finding::blocker(
            "columns-extra-required",
            Side::Green,
            summary,
        )));
    }
    if let Some(columns) = optional {
        let summary =
            "green has columns that blue lacks: the stream stops at tables that are not alike";
        findings.push(columns.into_finding(Finding::blocker(
            "columns-extra",
            Side::Green,
            summary,
        )));
    }
    findings
}

/// Pairs of columns with the same name that both sides store.
fn stored<'a>(
    pairs: &'a [(&'a TableInfo, &'a TableInfo)],
) -> impl Iterator<Item = (&'a TableInfo, &'a ColumnInfo, &'a ColumnInfo)> {
    pairs.iter().flat_map(|(blue, green)| {
        blue.copied_columns().filter_map(|column| {
            let there = green.column_named(&column.name)?;
            there.generated.is_none().then_some((*green, column, there))
        })
    })
}

fn column_types(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let differing = stored(pairs).filter(|(_, blue, green)| blue.type_name != green.type_name);
    let columns = Columns::collect(differing.map(|(table, blue, green)| {
        let name = quote_ident(&blue.name);
        let wanted = &blue.type_name;
        let alter = format!("ALTER COLUMN {name} TYPE {wanted} USING {name}::{wanted}");
        (table, green, format!(": blue {wanted}, green {}", green.type_name), Some(alter))
    }))?;
    let summary = "columns have different types on green";
    Some(columns.into_finding(Finding::blocker("column-types", Side::Green, summary)))
}

fn generated_columns(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let found = pairs.iter().flat_map(|(blue, green)| {
        blue.columns.iter().filter_map(|column| {
            let there = green.column_named(&column.name)?;
            let remark = match (column.generated, there.generated) {
                (Some(_), None) => ": generated on blue, so its values do not travel",
                (None, Some(_)) => ": generated on green, so it can't be written",
                _ => return None,
            };
            Some((*green, there, remark.to_owned(), None))
        })
    });
    let columns = Columns::collect(found)?;
    let finding = columns.into_finding(Finding::blocker(
        "columns-generated",
        Side::Green,
        "columns are generated on one side only",
    ));
    Some(finding.fix(Fix::advice("define the columns on green as they are on blue")))
}

fn stricter_columns(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let stricter = stored(pairs).filter(|(_, blue, green)| green.not_null && !blue.not_null);
    let columns = Columns::collect(stricter.map(|(table, _, green)| {
        let drop = format!("ALTER COLUMN {} DROP NOT NULL", quote_ident(&green.name));
        (table, green, String::new(), Some(drop))
    }))?;
    let summary = "columns are NOT NULL on green only: a NULL of blue would stop the move";
    Some(columns.into_finding(Finding::warning("columns-stricter", Side::Green, summary)))
}

fn collations(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let differing = stored(pairs).filter(|(_, blue, green)| blue.collation != green.collation);
    let columns = Columns::collect(differing.map(|(table, blue, green)| {
        let name = |c: &ColumnInfo| c.collation.clone().unwrap_or_else(|| "the default".into());
        (table, green, format!(": blue {}, green {}", name(blue), name(green)), None)
    }))?;
    let summary = "columns have different collations on green: order and uniqueness may differ";
    Some(columns.into_finding(Finding::warning("column-collations", Side::Green, summary)))
}

/// The columns that identify a row on blue need a unique index on green, or each UPDATE and
/// DELETE searches the table.
fn missing_keys(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let mut objects = Vec::new();
    let mut statements = Vec::new();
    for (blue, green) in pairs.iter().filter(|(blue, _)| blue.is_decoded()) {
        let ResolvedIdentity::Key { .. } = blue.identity else { continue };
        let Some(key) = blue.key_columns() else { continue };
        let wanted: BTreeSet<&str> = key.iter().map(|column| column.name.as_str()).collect();
        let covered = green.unique_indexes.iter().any(|index| {
            let names: Option<BTreeSet<&str>> = index
                .columns
                .iter()
                .map(|number| green.column(*number).map(|column| column.name.as_str()))
                .collect();
            index.valid && !index.partial && names.is_some_and(|names| names == wanted)
        });
        if !covered {
            let columns: Vec<String> = key.iter().map(|column| quote_ident(&column.name)).collect();
            objects.push(format!("{} ({})", green.name, columns.join(", ")));
            statements.push(format!(
                "CREATE UNIQUE INDEX ON {} ({})",
                green.name,
                columns.join(", ")
            ));
        }
    }
    (!objects.is_empty()).then(|| {
        Finding::warning(
            "keys-missing",
            Side::Green,
            "green has no unique index over the columns that identify a row: every UPDATE and \
             DELETE searches the whole table, and duplicates go unnoticed",
        )
        .evidence(count(objects.len(), "table"))
        .objects(objects)
        .fix(Fix::sql(Side::Green, statements))
    })
}

/// Types of users: missing ones, and enums without a label that blue has.
pub(super) fn types(blue: &[UserType], green: &[UserType]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let counterpart = |t: &UserType| green.iter().find(|there| there.name == t.name);
    let missing: Vec<String> = blue
        .iter()
        .filter(|user_type| counterpart(user_type).is_none())
        .map(|user_type| user_type.name.to_string())
        .collect();
    if !missing.is_empty() {
        findings.push(
            Finding::blocker("types-missing", Side::Green, "types of blue are missing on green")
                .evidence(count(missing.len(), "type"))
                .objects(missing)
                .fix(Fix::command("pg_dump --schema-only --section=pre-data \"$BLUE\"  # and take the CREATE TYPE statements")),
        );
    }
    let (mut lacking, mut statements, mut differing) = (Vec::new(), Vec::new(), Vec::new());
    for user_type in blue {
        let Some(there) = counterpart(user_type) else { continue };
        match (&user_type.detail, &there.detail) {
            (TypeDetail::Enum(wanted), TypeDetail::Enum(labels)) => {
                let before = statements.len();
                statements.extend(add_labels(&user_type.name, wanted, labels));
                if statements.len() > before {
                    lacking.push(user_type.name.to_string());
                }
            }
            (one, other) if one != other => differing.push(user_type.name.to_string()),
            _ => {}
        }
    }
    if !lacking.is_empty() {
        findings.push(
            Finding::blocker(
                "enum-labels",
                Side::Green,
                "enums on green lack labels that blue has",
            )
            .evidence(count(statements.len(), "label"))
            .objects(lacking)
            .fix(Fix::sql(Side::Green, statements)),
        );
    }
    if !differing.is_empty() {
        findings.push(
            Finding::blocker("types-differ", Side::Green, "types are made differently on green")
                .evidence(count(differing.len(), "type"))
                .objects(differing)
                .fix(Fix::advice("define the types on green as they are on blue")),
        );
    }
    findings
}

/// Statements that bring labels in, each at its place in blue's order.
fn add_labels(name: &QualifiedName, wanted: &[String], there: &[String]) -> Vec<String> {
    let mut statements = Vec::new();
    for (at, label) in wanted.iter().enumerate() {
        if there.contains(label) {
            continue;
        }
        let place = match (at.checked_sub(1).and_then(|at| wanted.get(at)), there.first()) {
            (Some(previous), _) => format!(" AFTER {}", quote_literal(previous)),
            (None, Some(first)) => format!(" BEFORE {}", quote_literal(first)),
            (None, None) => String::new(),
        };
        statements.push(format!("ALTER TYPE {name} ADD VALUE {}{place}", quote_literal(label)));
    }
    statements
}

/// Rows on green before the copy would be duplicated or left over.
pub(super) fn filled(
    request: &CheckRequest,
    blue: &[TableInfo],
    green: &[TableInfo],
    content: &Content,
) -> Vec<Finding> {
    let mut targets: BTreeSet<&QualifiedName> = blue.iter().map(|table| &table.name).collect();
    if request.via_partition_root {
        targets
            .extend(green.iter().filter(|t| t.kind == TableKind::PartitionLeaf).map(|t| &t.name));
    }
    let mut findings = Vec::new();
    let filled: Vec<String> = content
        .filled
        .iter()
        .filter(|name| targets.contains(name))
        .map(|name| {
            let rows = green
                .iter()
                .find(|table| table.name == *name)
                .and_then(|table| table.estimated_rows)
                .map_or_else(String::new, |rows| format!(" (about {rows:.0} rows)"));
            format!("{name}{rows}")
        })
        .collect();
    if filled.is_empty() {
        findings.push(Finding::ok("green-tables-filled", Side::Green, "green's tables are empty"));
    } else {
        findings.push(
            Finding::blocker(
                "green-tables-filled",
                Side::Green,
                "tables that are to be filled have rows already",
            )
            .evidence(count(filled.len(), "table"))
            .objects(filled)
            .fix(Fix::advice(
                "make sure that this really is green; if its rows are worth nothing, TRUNCATE these \
                 tables there",
            )),
        );
    }
    let unseen: Vec<String> = content
        .unseen
        .iter()
        .filter(|name| targets.contains(name))
        .map(ToString::to_string)
        .collect();
    if !unseen.is_empty() {
        findings.push(
            Finding::blocker(
                "green-tables-unseen",
                Side::Green,
                "it could not be seen whether these tables are empty",
            )
            .evidence(count(unseen.len(), "table"))
            .objects(unseen)
            .fix(Fix::advice("see table-write and row-security")),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity::Default;

    use super::super::fixture::{column, table, unique};
    use super::*;

    #[test]
    fn columns_are_compared_by_name() {
        let blue = table("T", Default, vec![unique("pk", &[1], true)]);
        let mut green = table("T", Default, vec![]);
        green.columns = vec![column(1, "a"), column(2, "C")];
        green.columns[0].type_name = "bigint".into();
        let findings = evaluate(&CheckRequest::new("main"), &[blue], &[green]);
        let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
        assert_eq!(
            ids,
            [
                "tables-missing",
                "columns-missing",
                "columns-extra-required",
                "column-types",
                "keys-missing"
            ]
        );
        let add = vec!["ALTER TABLE \"S\".\"T\" ADD COLUMN \"B\" integer".to_owned()];
        assert_eq!(findings[1].fix, Some(Fix::sql(Side::Green, add)));
    }

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn labels_are_added_at_their_place() {
        let name = QualifiedName::new("public", "Mood");
        let add =
            |wanted: &[&str], there: &[&str]| add_labels(&name, &labels(wanted), &labels(there));
        assert!(add(&["a", "b"], &["a", "b"]).is_empty());
        assert_eq!(
            add(&["x", "a", "it's"], &["a"]),
            [
                "ALTER TYPE \"public\".\"Mood\" ADD VALUE 'x' BEFORE 'a'",
                "ALTER TYPE \"public\".\"Mood\" ADD VALUE 'it''s' AFTER 'a'"
            ]
        );
        assert_eq!(add(&["a"], &[]), ["ALTER TYPE \"public\".\"Mood\" ADD VALUE 'a'"]);
    }
}
