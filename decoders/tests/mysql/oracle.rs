//! Decoded tables against the server's own SELECT.

use decoders::mysql::Event;
use tests::mysql::Mysql;

use super::replay::{Table, Texts, table};
use super::{binlog, catalog};

/// What SELECT says `t.<name>` holds.
pub fn selected(server: &Mysql, name: &str) -> Table {
    let columns = server
        .rows(&format!(
            "select column_name, if(column_type like '%zerofill', 'zerofill', data_type) from information_schema.columns
              where table_schema = 't' and table_name = '{name}' order by ordinal_position"
        ))
        .unwrap();
    let fields = columns.iter().map(|column| {
        let quoted = format!("`{}`", String::from_utf8_lossy(&column[0]));
        match &column[1][..] {
            b"float" => format!("{quoted} + 0e0, {quoted} is null"),
            b"zerofill" => format!("{quoted} + 0, {quoted} is null"),
            _ => format!("{quoted}, {quoted} is null"),
        }
    });
    let fields: Vec<String> = fields.collect();
    let rows = server.rows(&format!("select {} from t.`{name}`", fields.join(", "))).unwrap();
    let rows = rows.iter().map(|row| {
        let fields = row.chunks(2).map(|pair| (pair[1] == b"0").then(|| pair[0].clone()));
        let fields: Texts = fields.collect();
        (fields[0].clone().expect("a key"), fields)
    });
    rows.collect()
}

/// Fails with the first differing column unless both are the same.
pub fn compare(server: &Mysql, name: &str, decoded: &Table, selected: &Table) {
    let server = server.version().name();
    for (key, row) in selected {
        let key_text = String::from_utf8_lossy(key);
        let found = decoded.get(key);
        let found = found.unwrap_or_else(|| panic!("{server} {name}: row {key_text} is missing"));
        for (column, (decoded, selected)) in found.iter().zip(row).enumerate() {
            let show = |field: &Option<Vec<u8>>| {
                field
                    .as_ref()
                    .map(|bytes| format!("{:?} {bytes:x?}", String::from_utf8_lossy(bytes)))
            };
            assert!(
                decoded == selected,
                "{server} {name}: row {key_text} column {column}: decoded {:?}, selected {:?}",
                show(decoded),
                show(selected)
            );
        }
        assert_eq!(found.len(), row.len(), "{server} {name}: width");
    }
    assert_eq!(decoded.len(), selected.len(), "{server} {name}: rows");
}

/// Each table's row events give what SELECT gives.
pub fn check(server: &Mysql, tables: &[&str]) -> Vec<Event> {
    let events = binlog::events(&server.binlogs().unwrap());
    for name in tables {
        let catalog = catalog::columns(server, name);
        let selected = selected(server, name);
        assert!(!selected.is_empty(), "{name} holds nothing: the test would prove nothing");
        compare(server, name, &table(&events, name, &catalog), &selected);
    }
    events
}
