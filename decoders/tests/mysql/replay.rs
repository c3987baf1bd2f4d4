//! What a table holds when its row events are applied one after the other, as text.

use std::collections::{BTreeMap, HashMap};

use decoders::mysql::{Body, CatalogColumn, Cell, Change, Event, Layout, Operation, Value};

/// A row as text; `None` is NULL.
pub type Texts = Vec<Option<Vec<u8>>>;

/// Rows by the text of the first column, which is the key.
pub type Table = BTreeMap<Vec<u8>, Texts>;

/// Applies the row events of `t.<name>`. Columns that an image lacks keep their value.
pub fn table(events: &[Event], name: &str, catalog: &[CatalogColumn]) -> Table {
    let mut layouts = HashMap::new();
    let mut rows = Table::new();
    for event in events {
        match &event.body {
            Body::TableMap(map) if map.schema == "t" && map.table == name => {
                // The catalog is of the end: an ALTER TABLE may have come in between.
                let same = map.columns.len() == catalog.len();
                let layout = Layout::new(map, if same { catalog } else { &[] });
                layouts.insert(map.table_id, layout.unwrap_or_else(|e| panic!("{name}: {e}")));
            }
            Body::TableMap(map) => _ = layouts.remove(&map.table_id),
            Body::Rows(event) => {
                let Some(layout) = layouts.get(&event.table_id) else { continue };
                let mut reader = event.reader(layout).unwrap_or_else(|e| panic!("{name}: {e}"));
                while let Some(change) =
                    reader.read().unwrap_or_else(|error| panic!("{name}: {error}"))
                {
                    apply(&mut rows, event.operation, change, event.width);
                }
            }
            _ => {}
        }
    }
    rows
}

fn apply(rows: &mut Table, operation: Operation, change: &Change, width: usize) {
    let old = || change.before(0).map(|cell| text(&cell).flatten().expect("a key")).unwrap();
    let mut row = match operation {
        Operation::Insert => vec![None; width],
        Operation::Update | Operation::Delete => {
            let mut row = rows.remove(&old()).expect("the row is there");
            for (column, was) in row.iter().enumerate() {
                let cell = change.before(column).unwrap_or_else(|e| panic!("{e}"));
                if let Some(before) = text(&cell) {
                    assert_eq!(&before, was, "the old image's column {column}");
                }
            }
            row.resize(width, None); // ALTER TABLE may have added columns
            row
        }
    };
    if operation == Operation::Delete {
        return;
    }
    for (column, field) in row.iter_mut().enumerate() {
        let cell = change.after(column).unwrap_or_else(|error| panic!("{error}"));
        if let Some(after) = text(&cell) {
            *field = after;
        }
    }
    let key = row[0].clone().expect("a key");
    assert!(rows.insert(key, row).is_none(), "a row came twice");
}

/// `None` if the image lacks the column.
fn text(cell: &Cell) -> Option<Option<Vec<u8>>> {
    match cell {
        Cell::Absent => None,
        // SELECT shows a FLOAT with 6 digits; it is asked as DOUBLE, which is exact.
        Cell::Value(Value::Float(number)) => Some(Value::Double((*number).into()).text()),
        Cell::Value(value) => Some(value.text()),
    }
}
