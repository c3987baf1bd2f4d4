//! Whether a column's new type holds every value that it can have now.

use decoders::change::Retyped;
use decoders::mysql::catalog::{ColumnInfo, TableInfo};
use decoders::mysql::labels;

/// Whether `new` holds every value of the column on `table`, and stores each as it is. Only what is known
/// to do so; everything else does not.
pub(super) fn holds(table: &TableInfo, new: &Retyped) -> bool {
    let named = |column: &&ColumnInfo| column.name.eq_ignore_ascii_case(&new.column);
    let Some(old) = table.columns.iter().find(named) else { return false };
    let nullable_stays = !old.nullable || !new.not_null;
    let numbers_stay = old.auto_increment || !new.auto_increment;
    nullable_stays
        && numbers_stay
        && old.generated.is_none()
        && keeps_charset(table, old, new)
        && is_wider(old, new)
}

/// Text stays in its character set. Without one that is named it gets its table's.
fn keeps_charset(table: &TableInfo, old: &ColumnInfo, new: &Retyped) -> bool {
    let Some(charset) = old.charset.as_deref() else {
        return new.charset.is_none() && new.collation.is_none();
    };
    let of_collation = |name: &str| name.split_once('_').map_or(name, |(set, _)| set).to_owned();
    let of_table = || table.collation.as_deref().map(of_collation);
    let named = new.charset.clone().or_else(|| new.collation.as_deref().map(of_collation));
    let plain = |name: &str| if name == "utf8" { "utf8mb3".to_owned() } else { name.to_owned() };
    // A collation that is the same for several sets is of the set that stays.
    let is_shared = |name: &str| name == "uca1400" || name == "default";
    named
        .or_else(of_table)
        .is_some_and(|found| plain(&found) == plain(charset) || is_shared(&found))
}

fn is_wider(old: &ColumnInfo, new: &Retyped) -> bool {
    let (from, to) = (old.data_type.as_str(), new.data_type.as_str());
    let before = arguments(&old.column_type);
    let length = |arguments: &[u32]| arguments.first().copied();
    if let (Some(from), Some(to)) = (integer_bytes(from), integer_bytes(to)) {
        return match (old.is_unsigned(), new.unsigned) {
            (false, false) | (true, true) => to >= from,
            (true, false) => to > from,
            (false, true) => false,
        };
    }
    if let (Some(from), Some(to)) = (blob_rank(from), blob_rank(to)) {
        return same_kind(old, new) && to >= from && new.arguments.is_empty();
    }
    if from != to {
        // What fits a VARCHAR of 65535 bytes fits a TEXT.
        let to_large = matches!(to, "text" | "mediumtext" | "longtext");
        return from == "varchar" && to_large && new.arguments.is_empty();
    }
    match from {
        "varchar" | "varbinary" | "char" => length(&new.arguments) >= length(&before),
        "bit" => length(&new.arguments).unwrap_or(1) >= length(&before).unwrap_or(1),
        "binary" => length(&new.arguments).unwrap_or(1) == length(&before).unwrap_or(1),
        "datetime" | "timestamp" | "time" => {
            length(&new.arguments).unwrap_or(0) >= length(&before).unwrap_or(0)
        }
        "decimal" => {
            let digits = |arguments: &[u32]| {
                let scale = arguments.get(1).copied().unwrap_or(0);
                (length(arguments).unwrap_or(10).saturating_sub(scale), scale)
            };
            let ((whole, scale), (new_whole, new_scale)) =
                (digits(&before), digits(&new.arguments));
            new_whole >= whole && new_scale >= scale && old.is_unsigned() == new.unsigned
        }
        "float" | "double" => before == new.arguments && old.is_unsigned() == new.unsigned,
        "enum" | "set" => {
            let labels = labels(&old.column_type);
            labels.is_some_and(|labels| new.labels.starts_with(&labels))
        }
        "date" | "year" | "json" | "uuid" | "inet4" | "inet6" => true,
        _ => false,
    }
}

/// Text stays text, bytes stay bytes.
fn same_kind(old: &ColumnInfo, new: &Retyped) -> bool {
    old.data_type.ends_with("text") == new.data_type.ends_with("text")
}

fn integer_bytes(name: &str) -> Option<u8> {
    Some(match name {
        "tinyint" => 1,
        "smallint" => 2,
        "mediumint" => 3,
        "int" => 4,
        "bigint" => 8,
        _ => return None,
    })
}

fn blob_rank(name: &str) -> Option<u8> {
    Some(match name {
        "tinytext" | "tinyblob" => 1,
        "text" | "blob" => 2,
        "mediumtext" | "mediumblob" => 3,
        "longtext" | "longblob" => 4,
        _ => return None,
    })
}

/// The numbers in `decimal(10,2) unsigned`.
fn arguments(column_type: &str) -> Vec<u32> {
    let list = column_type.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let parts = list.map(|(list, _)| list.split(','));
    parts.into_iter().flatten().filter_map(|part| part.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(data_type: &str, column_type: &str, charset: Option<&str>) -> TableInfo {
        let column = ColumnInfo {
            name: "a".into(),
            position: 1,
            data_type: data_type.into(),
            column_type: column_type.into(),
            nullable: true,
            charset: charset.map(str::to_owned),
            collation: charset.map(|set| format!("{set}_bin")),
            default: None,
            generated: None,
            invisible: false,
            auto_increment: false,
        };
        TableInfo {
            name: decoders::QualifiedName::new("s", "t"),
            kind: decoders::mysql::catalog::TableKind::Plain,
            engine: Some("InnoDB".into()),
            collation: Some("utf8mb4_general_ci".into()),
            auto_increment: None,
            estimated_rows: None,
            bytes: 0,
            columns: vec![column],
            unique_keys: Vec::new(),
            foreign_keys: Vec::new(),
            triggers: Vec::new(),
        }
    }

    fn new(data_type: &str, arguments: &[u32]) -> Retyped {
        Retyped {
            column: "A".into(),
            data_type: data_type.into(),
            arguments: arguments.to_vec(),
            ..Retyped::default()
        }
    }

    #[test]
    fn wider_types_hold_what_was_there() {
        let int = table("int", "int(11)", None);
        assert!(holds(&int, &new("bigint", &[])) && holds(&int, &new("int", &[])));
        assert!(!holds(&int, &new("smallint", &[])));
        assert!(!holds(&int, &Retyped { unsigned: true, ..new("bigint", &[]) }));
        let unsigned = table("int", "int(10) unsigned", None);
        assert!(holds(&unsigned, &new("bigint", &[])) && !holds(&unsigned, &new("int", &[])));
        let decimal = table("decimal", "decimal(10,2)", None);
        assert!(holds(&decimal, &new("decimal", &[12, 4])));
        assert!(!holds(&decimal, &new("decimal", &[10, 4])));
        let time = table("datetime", "datetime(3)", None);
        assert!(holds(&time, &new("datetime", &[6])) && !holds(&time, &new("datetime", &[])));
        let labels = |labels: &[&str]| Retyped {
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            ..new("enum", &[])
        };
        let of_labels = table("enum", "enum('x','y')", Some("utf8mb4"));
        assert!(holds(&of_labels, &labels(&["x", "y", "z"])));
        assert!(!holds(&of_labels, &labels(&["y", "x"])) && !holds(&of_labels, &labels(&["x"])));
    }

    #[test]
    fn text_keeps_its_character_set() {
        let text = table("varchar", "varchar(20)", Some("utf8mb4"));
        assert!(holds(&text, &new("varchar", &[20])) && holds(&text, &new("text", &[])));
        assert!(!holds(&text, &new("varchar", &[19])) && !holds(&text, &new("tinytext", &[])));
        let latin =
            |charset: &str| Retyped { charset: Some(charset.into()), ..new("varchar", &[30]) };
        assert!(!holds(&text, &latin("latin1")) && holds(&text, &latin("utf8mb4")));
        // The table's own is another one.
        let other = table("varchar", "varchar(20)", Some("latin1"));
        assert!(!holds(&other, &new("varchar", &[30])) && holds(&other, &latin("latin1")));
        let collation = Retyped { collation: Some("latin1_bin".into()), ..new("varchar", &[30]) };
        assert!(holds(&other, &collation));
    }

    #[test]
    fn what_rows_decide_is_no_widening() {
        let int = table("int", "int(11)", None);
        assert!(!holds(&int, &Retyped { not_null: true, ..new("bigint", &[]) }));
        assert!(!holds(&int, &Retyped { auto_increment: true, ..new("bigint", &[]) }));
        assert!(!holds(&int, &new("varchar", &[40])));
        assert!(!holds(&int, &Retyped { column: "b".into(), ..new("bigint", &[]) }));
    }
}
