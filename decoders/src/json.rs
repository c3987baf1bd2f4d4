//! Change events as JSON, one object each: what `replicator tail` prints.
//!
//! ```json
//! {"id":"0/1538D90-0","op":"update","schema":"public","table":"account","keys":{"id":"7"},
//!  "before":null,"after":{"id":"7","name":"Ada"},"unchanged":["photo"],
//!  "committed_at":"2026-11-21T01:50:37.000042Z","transaction_id":742,"position":"0/1538DC0"}
//! ```
//!
//! - `id` is unique and the same each time the stream is read: the LSN of the commit record and
//!   the event's number in its transaction.
//! - `keys` finds the row as it was before the change. With REPLICA IDENTITY FULL that is the
//!   whole row.
//! - `before` is null unless the source sent an old image; one that only holds the key shows only
//!   the key's columns.
//! - `after` leaves out TOASTed values that did not change and were not sent; `unchanged` lists
//!   them.
//! - A value is its type's text, or null. Bytes that are no UTF-8, and values that travelled in
//!   binary, are `{"base64":".."}`.
//! - A TRUNCATE of several tables is one event per table, with `cascade` and `restart_identity`.
//! - A logical message has `prefix` and `content` instead of schema, table and images.
//! - `position` is where to resume behind the transaction. Null in the parts of a large
//!   transaction before its last.
//! - MySQL and MariaDB: see [`JsonEvents::of_binlog`].

mod binlog;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::change::{
    Cell, ChangeEvent, OldRow, Row, TableSchema, Transaction, UNTOLD_ORIGIN, Value,
};

/// Numbers the events of a stream and turns them into JSON.
#[derive(Debug, Default)]
pub struct JsonEvents {
    /// Number of the next event in the transaction that is being read.
    ordinal: u64,
}

/// One event, ready for `serde_json::to_writer` or `to_value`.
#[derive(Debug, Serialize)]
pub struct JsonEvent<'a> {
    id: String,
    op: &'static str,
    #[serde(flatten)]
    detail: Detail<'a>,
    committed_at: Option<String>,
    transaction_id: TransactionNumber,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    /// The distributed transaction that this one prepares.
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared: Option<String>,
    position: Option<String>,
}

/// What the source calls a transaction.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum TransactionNumber {
    Xid(u32),
    Gtid(String),
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    Row {
        schema: &'a str,
        table: &'a str,
        keys: Image<'a>,
        before: Option<Image<'a>>,
        after: Option<Image<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        unchanged: Vec<&'a str>,
    },
    Truncate {
        schema: &'a str,
        table: &'a str,
        cascade: bool,
        restart_identity: bool,
    },
    Message {
        prefix: &'a str,
        content: TextOrBytes<'a>,
    },
    Statement {
        schema: &'a str,
        kind: crate::mysql::stream::Kind,
        tables: Vec<String>,
        statement: &'a str,
    },
    Xa {
        xa: String,
    },
}

impl JsonEvents {
    /// Numbering for a stream from its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events of the next transaction or part, in order. Parts must come as they were
    /// delivered: numbering goes on over them.
    pub fn of<'a>(&mut self, transaction: &'a Transaction) -> impl Iterator<Item = JsonEvent<'a>> {
        if transaction.part.starts() {
            self.ordinal = 0;
        }
        let first = self.ordinal;
        let events: Vec<_> = transaction.changes.iter().flat_map(details).collect();
        self.ordinal += events.len() as u64;
        let committed_at = rfc3339(transaction.committed_at_us);
        let position = transaction.end_lsn.map(|lsn| lsn.to_string());
        (first..).zip(events).map(move |(ordinal, (op, detail))| JsonEvent {
            id: format!("{}-{ordinal}", transaction.commit_lsn),
            op,
            detail,
            committed_at: committed_at.clone(),
            transaction_id: TransactionNumber::Xid(transaction.xid),
            origin: transaction.origin.as_deref().filter(|origin| *origin != UNTOLD_ORIGIN),
            prepared: None,
            position: position.clone(),
        })
    }
}

fn details<'a>(change: &'a ChangeEvent) -> Vec<(&'static str, Detail<'a>)> {
    match change {
        ChangeEvent::Insert { table, new } => vec![("insert", row(table, new, None, Some(new)))],
        ChangeEvent::Update { table, old, new } => {
            let key_row = old.as_ref().map_or(new, OldRow::row);
            vec![("update", row(table, key_row, old.as_ref(), Some(new)))]
        }
        ChangeEvent::Delete { table, old } => {
            vec![("delete", row(table, old.row(), Some(old), None))]
        }
        ChangeEvent::Truncate { tables, cascade, restart_identity } => {
            let truncate = |table: &'a Arc<TableSchema>| Detail::Truncate {
                schema: &table.name.schema,
                table: &table.name.name,
                cascade: *cascade,
                restart_identity: *restart_identity,
            };
            tables.iter().map(|table| ("truncate", truncate(table))).collect()
        }
        ChangeEvent::Message { prefix, content } => {
            vec![("message", Detail::Message { prefix, content: TextOrBytes(content) })]
        }
        // Of a binlog, whose own changes are shown: see `binlog`.
        ChangeEvent::Definition(_) | ChangeEvent::Distributed(_) => Vec::new(),
    }
}

fn row<'a>(
    table: &'a TableSchema,
    key_row: &'a Row,
    old: Option<&'a OldRow>,
    new: Option<&'a Row>,
) -> Detail<'a> {
    let image = |row, key_only| Image { table, row, key_only };
    let before = old.map(|old| match old {
        OldRow::Key(row) => image(row, true),
        OldRow::Full(row) => image(row, false),
    });
    let cells = new.into_iter().flat_map(Row::cells);
    let left_out = |(name, cell): (&'a str, Cell<'_>)| (cell == Cell::Unchanged).then_some(name);
    Detail::Row {
        schema: &table.name.schema,
        table: &table.name.name,
        keys: image(key_row, true),
        before,
        after: new.map(|row| image(row, false)),
        unchanged: table.column_names().zip(cells).filter_map(left_out).collect(),
    }
}

/// A row as an object from column name to text or null.
#[derive(Debug)]
struct Image<'a> {
    table: &'a TableSchema,
    row: &'a Row,
    key_only: bool,
}

impl Serialize for Image<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (column, cell) in self.table.columns.iter().zip(self.row.cells()) {
            if self.key_only && !column.in_key {
                continue;
            }
            match cell {
                Cell::Unchanged => {}
                Cell::Value(Value::Null) => object.serialize_entry(&column.name, &())?,
                Cell::Value(Value::Text(text)) => {
                    object.serialize_entry(&column.name, &TextOrBytes(text))?;
                }
                Cell::Value(Value::Binary(bytes)) => {
                    object.serialize_entry(&column.name, &Base64 { base64: bytes })?;
                }
            }
        }
        object.end()
    }
}

/// A string if it is UTF-8. A source with encoding SQL_ASCII may hold anything.
#[derive(Debug)]
struct TextOrBytes<'a>(&'a [u8]);

impl Serialize for TextOrBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Base64 { base64: self.0 }.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct Base64<'a> {
    #[serde(serialize_with = "as_base64")]
    base64: &'a [u8],
}

fn as_base64<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// `None` for a time outside of the years -9999 to 9999, which no clock gives.
fn rfc3339(unix_us: i64) -> Option<String> {
    let time = jiff::Timestamp::from_microsecond(unix_us).ok()?;
    Some(format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::change::{Column, Lsn, Part, QualifiedName, ReplicaIdentity, TableId};

    fn table(identity: ReplicaIdentity) -> Arc<TableSchema> {
        let full = identity == ReplicaIdentity::Full;
        let column = |name: &str, in_key| Column {
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            in_key,
        };
        Arc::new(TableSchema {
            id: TableId(1),
            name: QualifiedName::new("public", "Größe"),
            identity,
            columns: vec![column("id", true), column("a", full), column("b", full)],
        })
    }

    fn text(text: &str) -> Cell<'_> {
        Cell::text(text)
    }

    fn transaction(part: Part, changes: Vec<ChangeEvent>) -> Transaction {
        Transaction {
            part,
            xid: 742,
            commit_lsn: Lsn(0x1538D90),
            end_lsn: part.ends().then_some(Lsn(0x1538DC0)),
            committed_at_us: 42,
            origin: None,
            changes,
            bytes: 0,
        }
    }

    fn events(numbers: &mut JsonEvents, transaction: &Transaction) -> Vec<serde_json::Value> {
        numbers.of(transaction).map(|event| serde_json::to_value(event).unwrap()).collect()
    }

    #[test]
    fn an_update_with_a_key_change_and_a_gap() {
        let update = ChangeEvent::Update {
            table: table(ReplicaIdentity::Default),
            old: Some(OldRow::Key(vec![text("1"), Cell::NULL, Cell::NULL].into())),
            new: vec![text("2"), Cell::NULL, Cell::Unchanged].into(),
        };
        let got = events(&mut JsonEvents::new(), &transaction(Part::Whole, vec![update]));
        let expected = json!({
            "id": "0/1538D90-0", "op": "update", "schema": "public", "table": "Größe",
            "keys": {"id": "1"}, "before": {"id": "1"}, "after": {"id": "2", "a": null},
            "unchanged": ["b"], "committed_at": "1970-01-01T00:00:00.000042Z",
            "transaction_id": 742, "position": "0/1538DC0",
        });
        assert_eq!(got, [expected]);
    }

    #[test]
    fn a_delete_by_full_row_shows_all_of_it() {
        let row = vec![text("1"), text(""), Cell::NULL];
        let delete = ChangeEvent::Delete {
            table: table(ReplicaIdentity::Full),
            old: OldRow::Full(row.into()),
        };
        let got = events(&mut JsonEvents::new(), &transaction(Part::Whole, vec![delete]));
        assert_eq!(got[0]["before"], json!({"id": "1", "a": "", "b": null}));
        assert_eq!(got[0]["keys"], got[0]["before"]);
        assert_eq!(got[0]["after"], json!(null));
    }

    #[test]
    fn numbers_go_on_over_parts_and_start_again_with_the_next_transaction() {
        let insert = || ChangeEvent::Insert {
            table: table(ReplicaIdentity::Default),
            new: vec![text("1"), text("x"), text("y")].into(),
        };
        let mut numbers = JsonEvents::new();
        let mut ids = Vec::new();
        for (part, count) in [(Part::First, 2), (Part::Last, 1), (Part::Whole, 1)] {
            let changes = std::iter::repeat_with(insert).take(count).collect();
            for event in events(&mut numbers, &transaction(part, changes)) {
                ids.push((event["id"].clone(), event["position"].is_null()));
            }
        }
        let expected = [("-0", true), ("-1", true), ("-2", false), ("-0", false)]
            .map(|(ordinal, open)| (json!(format!("0/1538D90{ordinal}")), open));
        assert_eq!(ids, expected);
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart_from_text() {
        let new = vec![Cell::text(b"\xff"), Cell::binary(b"1"), text("/w==")];
        let table = table(ReplicaIdentity::Default);
        let insert = ChangeEvent::Insert { table: table.clone(), new: new.into() };
        let message =
            ChangeEvent::Message { prefix: "cutover.x".into(), content: Bytes::from_static(b"hi") };
        let truncate = ChangeEvent::Truncate {
            tables: [table.clone(), table].into(),
            cascade: true,
            restart_identity: false,
        };
        let changes = vec![insert, message, truncate];
        let got = events(&mut JsonEvents::new(), &transaction(Part::Whole, changes));
        let after = json!({"id": {"base64": "/w=="}, "a": {"base64": "MQ=="}, "b": "/w=="});
        assert_eq!(got[0]["after"], after);
        assert_eq!((&got[1]["prefix"], &got[1]["content"]), (&json!("cutover.x"), &json!("hi")));
        assert_eq!(got[2]["op"], "truncate");
        assert_eq!((&got[3]["id"], &got[3]["cascade"]), (&json!("0/1538D90-3"), &json!(true)));
    }
}
