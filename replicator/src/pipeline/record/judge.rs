//! One relation, as it is kept and as it is: can rows have changed? [`super`] has the reasons.

use decoders::postgres::catalog::{ColumnRecord, RelationRecord};

/// Why rows may have changed, in words; empty if they can't have. Both are the same table.
pub(super) fn moved(before: &RelationRecord, now: &RelationRecord) -> Vec<String> {
    if before.is_root {
        return Vec::new();
    }
    let mut why = Vec::new();
    if before.persistence != now.persistence {
        why.push("it was set LOGGED or UNLOGGED".to_owned());
    }
    match (&before.membership, &now.membership) {
        (Some(before), Some(now)) if before != now => {
            why.push("it was outside of the publication for a while".to_owned());
        }
        (Some(_), None) if before.is_partition() => {
            why.push(
                "it was detached: what is written to it since is not in the stream".to_owned(),
            );
        }
        (Some(_), None) => why.push("it was taken out of the publication".to_owned()),
        (None, Some(_)) => why.push("it came into the publication after the copy".to_owned()),
        _ => {}
    }
    let has_another_file = before.file_node != now.file_node;
    let live = |column: &&ColumnRecord| !column.is_dropped;
    for column in now.columns.iter().filter(live) {
        if before.columns.iter().any(|known| known.number == column.number) {
            continue;
        }
        let name = &column.name;
        if before.columns.iter().filter(live).any(|known| known.name == *name) {
            why.push(format!("column {name:?} was dropped and added again"));
        } else if column.fills_older_rows {
            why.push(format!(
                "column {name:?} was added with a value for the rows that were there"
            ));
        } else if has_another_file {
            why.push(format!("column {name:?} was added, and the table written anew"));
        }
    }
    for column in now.columns.iter().filter(live) {
        let known = |known: &&ColumnRecord| live(known) && known.number == column.number;
        let Some(was) = before.columns.iter().find(known) else { continue };
        // A new name alone halts the stream, which goes by names. One that another column had does not.
        let had = |other: &ColumnRecord| other.number != column.number && other.name == column.name;
        if was.name != column.name && before.columns.iter().filter(live).any(had) {
            why.push(format!(
                "column {:?} was given the name of column {:?}",
                was.name, column.name
            ));
        }
    }
    let kept = before.columns.iter().filter_map(|known| {
        let now = now.columns.iter().find(|column| column.number == known.number)?;
        (!now.is_dropped && known.version != now.version).then_some(known)
    });
    let rewritten: Vec<_> = kept.map(|column| format!("{:?}", column.name)).collect();
    let has_another_toast = before.toast != 0 && before.toast != now.toast;
    if has_another_file && !rewritten.is_empty() {
        why.push(format!("it was written anew, with column {}", rewritten.join(", ")));
    } else if has_another_file && has_another_toast && why.is_empty() {
        why.push("it was written anew by ALTER TABLE".to_owned());
    }
    why
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;

    use super::*;

    fn column(number: i16, name: &str) -> ColumnRecord {
        ColumnRecord {
            number,
            name: name.into(),
            type_name: "integer".into(),
            not_null: false,
            default: None,
            identity: String::new(),
            generated: String::new(),
            is_dropped: false,
            fills_older_rows: false,
            version: "700".into(),
        }
    }

    fn table() -> RelationRecord {
        RelationRecord {
            oid: 1,
            name: QualifiedName::new("public", "t"),
            is_root: false,
            persistence: "p".into(),
            file_node: 1,
            toast: 5,
            version: "700".into(),
            replica_identity: "d".into(),
            primary_key: None,
            owner: "o".into(),
            parents: Vec::new(),
            bounds: None,
            is_born_child: false,
            membership: Some("9.1.1".into()),
            columns: vec![column(1, "id"), column(2, "c")],
        }
    }

    fn judged(change: impl FnOnce(&mut RelationRecord)) -> String {
        let mut now = table();
        now.version = "701".into();
        change(&mut now);
        moved(&table(), &now).join("; ")
    }

    #[test]
    fn maintenance_is_harmless() {
        // VACUUM FULL, CLUSTER, TRUNCATE.
        assert_eq!(judged(|now| now.file_node = 2), "");
        // ALTER COLUMN SET DEFAULT, SET NOT NULL, RENAME, GRANT.
        assert_eq!(judged(|now| now.columns[1].version = "701".into()), "");
        assert_eq!(judged(|now| now.columns[1].name = "d".into()), "");
        // DROP COLUMN; ADD COLUMN that is NULL everywhere.
        assert_eq!(judged(|now| now.columns[1].is_dropped = true), "");
        assert_eq!(judged(|now| now.columns.push(column(3, "d"))), "");
        // The first column that needs a TOAST table.
        let mut before = table();
        before.toast = 0;
        assert_eq!(moved(&before, &table()), Vec::<String>::new());
        assert_eq!(judged(|now| now.replica_identity = "f".into()), "");
    }

    #[test]
    fn whatever_may_have_moved_rows_is_told() {
        let rewritten = judged(|now| {
            now.file_node = 2;
            now.toast = 6;
            now.columns[1].version = "701".into();
        });
        assert_eq!(rewritten, "it was written anew, with column \"c\"");
        let by_toast = judged(|now| (now.file_node, now.toast) = (2, 6));
        assert_eq!(by_toast, "it was written anew by ALTER TABLE");
        let exchanged = judged(|now| {
            now.columns[0].name = now.columns[1].name.clone();
            now.columns[1].name = table().columns[0].name.clone();
        });
        assert_eq!(
            exchanged,
            "column \"id\" was given the name of column \"c\"; column \"c\" was given the name of column \"id\""
        );
        let again = judged(|now| {
            now.columns[1].is_dropped = true;
            now.columns.push(column(3, "c"));
        });
        assert_eq!(again, "column \"c\" was dropped and added again");
        let filled = judged(|now| {
            now.columns.push(ColumnRecord { fills_older_rows: true, ..column(3, "d") });
        });
        assert!(filled.contains("\"d\" was added with a value"), "{filled}");
        let computed = judged(|now| {
            now.file_node = 2;
            now.columns.push(column(3, "d"));
        });
        assert!(computed.contains("\"d\" was added, and the table written anew"), "{computed}");
        assert!(judged(|now| now.persistence = "u".into()).contains("UNLOGGED"));
        assert!(judged(|now| now.membership = Some("9.1.2".into())).contains("for a while"));
        assert!(judged(|now| now.membership = None).contains("taken out"));
    }

    #[test]
    fn a_partitioned_table_has_no_rows() {
        let root = RelationRecord { is_root: true, ..table() };
        let now = RelationRecord { file_node: 3, membership: None, ..root.clone() };
        assert_eq!(moved(&root, &now), Vec::<String>::new());
    }
}
