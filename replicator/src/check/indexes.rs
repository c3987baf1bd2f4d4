//! Family: indexes that blue has and does not use.

use super::facts::InvalidIndex;
use super::finding::{Finding, Fix, Side};

/// `major` is blue's.
pub(super) fn invalid(indexes: &[InvalidIndex], major: u32) -> Finding {
    const ID: &str = "index-invalid";
    if indexes.is_empty() {
        return Finding::ok(ID, Side::Blue, "every index is valid");
    }
    let remade = indexes.iter().filter(|index| !index.is_partitioned);
    let how = if major >= 12 { "REINDEX INDEX CONCURRENTLY" } else { "REINDEX INDEX" };
    let statements: Vec<_> = remade.map(|index| format!("{how} {}", index.name)).collect();
    let finding = Finding::warning(
        ID,
        Side::Blue,
        "indexes that are not valid: blue does not use them for queries, those that are unique may not be \
         kept, and green gets none of them",
    )
    .evidence(format!("{} being made, or left by one that failed", indexes.len()))
    .objects(indexes.iter().map(|index| format!("{}: {}", index.table, index.name)).collect());
    match statements.is_empty() {
        true => {
            finding.fix(Fix::advice("make and attach the missing parts of partitions, or drop it"))
        }
        false => finding.fix(Fix::Sql {
            side: Side::Blue,
            statements,
            then: Some("or DROP INDEX CONCURRENTLY what nobody needs".into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;

    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn an_invalid_index_is_named_with_what_makes_it_again() {
        let index = InvalidIndex {
            table: QualifiedName::new("public", "orders"),
            name: "public.orders_day".into(),
            is_partitioned: false,
        };
        let found = invalid(std::slice::from_ref(&index), 15);
        assert_eq!(found.severity, Severity::Warning);
        let fix = found.fix.unwrap().line();
        assert!(fix.contains("REINDEX INDEX CONCURRENTLY public.orders_day"), "{fix}");
        let old = invalid(&[index], 11).fix.unwrap().line();
        assert!(!old.contains("REINDEX INDEX CONCURRENTLY"), "{old}");
        assert_eq!(invalid(&[], 15).severity, Severity::Ok);
    }
}
