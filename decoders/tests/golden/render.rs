//! Frames as text for people to read and to compare.

use bytes::Bytes;
use decoders::assemble::Assembler;
use decoders::json::JsonEvents;
use decoders::postgres::pgoutput::{self, Message};
use decoders::{Cell, OldRow, Row, Value};

/// Longer lines and values are cut, with their length.
const LINE_CHARS_MAX: usize = 600;
const VALUE_CHARS_MAX: usize = 80;

pub fn text(frames: &[Bytes]) -> String {
    let mut assembler = Assembler::default();
    let mut events = JsonEvents::new();
    let mut out = String::new();
    let mut line = |line: &str| {
        out.push_str(&cut(line, LINE_CHARS_MAX));
        out.push('\n');
    };
    for frame in frames {
        let message = pgoutput::decode(frame).unwrap();
        line(&describe(&message));
        let Some(transaction) = assembler.push(message, frame.len()).unwrap() else {
            continue;
        };
        for event in events.of(&transaction) {
            line(&format!("  {}", serde_json::to_string(&event).unwrap()));
        }
    }
    assert!(!assembler.is_open(), "the recording ends inside a transaction");
    out
}

pub fn describe(message: &Message) -> String {
    match message {
        Message::Begin(begin) => format!("Begin {} for {}", begin.xid, begin.final_lsn),
        Message::Commit(commit) => format!("Commit {} to {}", commit.commit_lsn, commit.end_lsn),
        Message::Origin(origin) => format!("Origin {:?} {}", origin.name, origin.origin_lsn),
        Message::Type(name) => format!("Type {} {}", name.oid, name.name),
        Message::Relation(pgoutput::Relation(table)) => {
            let column = |column: &decoders::Column| {
                let key = if column.in_key { " key" } else { "" };
                let modifier = match column.type_modifier {
                    -1 => String::new(),
                    modifier => format!("/{modifier}"),
                };
                format!("{:?} {}{modifier}{key}", column.name, column.type_oid)
            };
            let columns: Vec<_> = table.columns.iter().map(column).collect();
            let (count, columns) = (columns.len(), columns.join(", "));
            let (id, name, identity) = (table.id.0, &table.name, table.identity);
            format!("Relation {id} {name} {identity:?}, {count} columns: {columns}")
        }
        Message::Insert(insert) => format!("Insert {} {}", insert.table.0, row(&insert.new)),
        Message::Update(update) => {
            let old = update.old.as_ref().map_or("()".to_owned(), old_row);
            format!("Update {} {old} to {}", update.table.0, row(&update.new))
        }
        Message::Delete(delete) => format!("Delete {} {}", delete.table.0, old_row(&delete.old)),
        Message::Truncate(truncate) => format!("{truncate:?}"),
        Message::Logical(message) => format!("{message:?}"),
    }
}

fn old_row(old: &OldRow) -> String {
    match old {
        OldRow::Key(key) => format!("Key{}", row(key)),
        OldRow::Full(full) => format!("Full{}", row(full)),
    }
}

fn row(row: &Row) -> String {
    let cell = |cell: Cell<'_>| match cell {
        Cell::Unchanged => "unchanged".to_owned(),
        Cell::Value(Value::Null) => "null".to_owned(),
        Cell::Value(Value::Text(text)) => {
            cut(&format!("{:?}", String::from_utf8_lossy(text)), VALUE_CHARS_MAX)
        }
        Cell::Value(Value::Binary(bytes)) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            cut(&format!("x{hex}"), VALUE_CHARS_MAX)
        }
    };
    format!("({})", row.cells().map(cell).collect::<Vec<_>>().join(", "))
}

fn cut(text: &str, chars_max: usize) -> String {
    let chars = text.chars().count();
    if chars <= chars_max {
        return text.to_owned();
    }
    let start: String = text.chars().take(chars_max).collect();
    format!("{start}.. ({chars} characters)")
}
