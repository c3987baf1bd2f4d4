//! Changes of rows as bytes.
//!
//! A piece is whole in itself: the tables' descriptions, then one change after the other. Numbers are
//! little-endian.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use decoders::change::{Cell, ChangeEvent, OldRow, Row, RowBuilder, TableSchema, Value};

const INSERT: u8 = 1;
const UPDATE: u8 = 2;
const DELETE: u8 = 3;
const MESSAGE: u8 = 4;

const NULL: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const UNCHANGED: u8 = 3;

/// Bytes that are no piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Changes as pieces of so many bytes at most, unless one change has more.
pub(super) struct Pieces<'a> {
    changes: &'a [ChangeEvent],
    most: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(changes: &'a [ChangeEvent], most: usize) -> Self {
        Self { changes, most }
    }
}

impl Iterator for Pieces<'_> {
    /// An error names the change that can't be encoded.
    type Item = Result<Vec<u8>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.changes.is_empty() {
            return None;
        }
        let mut tables: Vec<&Arc<TableSchema>> = Vec::new();
        let mut body = Vec::new();
        while let Some((change, rest)) = self.changes.split_first() {
            let before = (body.len(), tables.len());
            if let Err(what) = put(&mut body, &mut tables, change) {
                self.changes = &[];
                return Some(Err(what));
            }
            if body.len() > self.most && before.0 > 0 {
                body.truncate(before.0);
                tables.truncate(before.1);
                break;
            }
            self.changes = rest;
        }
        let tables: Vec<&TableSchema> = tables.into_iter().map(|table| &**table).collect();
        let Ok(described) = serde_json::to_vec(&tables) else {
            return Some(Err("a table's description"));
        };
        let mut piece = Vec::with_capacity(described.len() + body.len() + 4);
        piece.extend_from_slice(&(described.len() as u32).to_le_bytes());
        piece.extend_from_slice(&described);
        piece.append(&mut body);
        Some(Ok(piece))
    }
}

fn put<'a>(
    out: &mut Vec<u8>,
    tables: &mut Vec<&'a Arc<TableSchema>>,
    change: &'a ChangeEvent,
) -> Result<(), &'static str> {
    let mut begin = |out: &mut Vec<u8>, operation: u8, table: &'a Arc<TableSchema>| {
        let at = tables.iter().position(|known| Arc::ptr_eq(known, table));
        let at = at.unwrap_or_else(|| {
            tables.push(table);
            tables.len() - 1
        });
        out.push(operation);
        out.extend_from_slice(&(at as u32).to_le_bytes());
    };
    match change {
        ChangeEvent::Insert { table, new } => {
            begin(out, INSERT, table);
            put_row(out, new);
        }
        ChangeEvent::Update { table, old: Some(OldRow::Full(old)), new } => {
            begin(out, UPDATE, table);
            put_row(out, old);
            put_row(out, new);
        }
        ChangeEvent::Delete { table, old: OldRow::Full(old) } => {
            begin(out, DELETE, table);
            put_row(out, old);
        }
        ChangeEvent::Message { prefix, content } => {
            out.push(MESSAGE);
            put_bytes(out, prefix.as_bytes());
            put_bytes(out, content);
        }
        ChangeEvent::Update { .. } | ChangeEvent::Delete { .. } => {
            return Err("a row without its old values");
        }
        ChangeEvent::Truncate { .. } => return Err("a TRUNCATE"),
        ChangeEvent::Definition(_) => return Err("a schema change"),
        ChangeEvent::Distributed(_) => return Err("another distributed transaction"),
    }
    Ok(())
}

/// Values have less than 1 GiB.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_row(out: &mut Vec<u8>, row: &Row) {
    out.extend_from_slice(&(row.width() as u32).to_le_bytes());
    for cell in row.cells() {
        match cell {
            Cell::Value(Value::Null) => out.push(NULL),
            Cell::Unchanged => out.push(UNCHANGED),
            Cell::Value(Value::Text(bytes)) => {
                out.push(TEXT);
                put_bytes(out, bytes);
            }
            Cell::Value(Value::Binary(bytes)) => {
                out.push(BINARY);
                put_bytes(out, bytes);
            }
        }
    }
}

/// The changes in a piece.
pub(super) fn decode(piece: Bytes) -> Result<Vec<ChangeEvent>, Malformed> {
    let mut reader = Reader { all: piece.clone(), rest: piece };
    let described = reader.bytes()?;
    let tables: Vec<TableSchema> = serde_json::from_slice(&described).map_err(|_| Malformed)?;
    let tables: Vec<Arc<TableSchema>> = tables.into_iter().map(Arc::new).collect();
    let mut changes = Vec::new();
    while !reader.rest.is_empty() {
        let operation = reader.u8()?;
        if operation == MESSAGE {
            let prefix = String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Malformed)?;
            changes.push(ChangeEvent::Message { prefix, content: reader.bytes()? });
            continue;
        }
        let at = reader.u32()? as usize;
        let table = tables.get(at).cloned().ok_or(Malformed)?;
        changes.push(match operation {
            INSERT => ChangeEvent::Insert { table, new: reader.row()? },
            UPDATE => {
                let old = Some(OldRow::Full(reader.row()?));
                ChangeEvent::Update { table, old, new: reader.row()? }
            }
            DELETE => ChangeEvent::Delete { table, old: OldRow::Full(reader.row()?) },
            _ => return Err(Malformed),
        });
    }
    Ok(changes)
}

struct Reader {
    all: Bytes,
    rest: Bytes,
}

impl Reader {
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.rest.try_get_u8().map_err(|_| Malformed)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.rest.try_get_u32_le().map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        if self.rest.len() < length {
            return Err(Malformed);
        }
        Ok(self.rest.split_to(length))
    }

    fn row(&mut self) -> Result<Row, Malformed> {
        let width = self.u32()? as usize;
        // Each cell has a byte at least.
        if width > self.rest.len() {
            return Err(Malformed);
        }
        let frame = self.all.clone();
        let mut row = RowBuilder::new(&frame, width);
        for _ in 0..width {
            match self.u8()? {
                NULL => row.null(),
                UNCHANGED => row.unchanged(),
                kind @ (TEXT | BINARY) => {
                    let length = self.u32()? as usize;
                    let start = frame.len() - self.rest.len();
                    if length > Row::VALUE_BYTES_MAX || self.rest.len() < length {
                        return Err(Malformed);
                    }
                    self.rest.advance(length);
                    match kind {
                        TEXT => row.text(start..start + length),
                        _ => row.binary(start..start + length),
                    }
                }
                _ => return Err(Malformed),
            }
        }
        Ok(row.finish())
    }
}

#[cfg(test)]
mod tests {
    use decoders::change::{Column, QualifiedName, ReplicaIdentity, TableId};
    use proptest::prelude::*;

    use super::*;

    fn changes(values: &[Option<Vec<u8>>]) -> Vec<ChangeEvent> {
        let column =
            |name: &str| Column { name: name.into(), type_oid: 7, type_modifier: -1, in_key: true };
        let table = |name: &str| {
            Arc::new(TableSchema {
                id: TableId(3),
                name: QualifiedName::new("s", name),
                identity: ReplicaIdentity::Full,
                columns: vec![column("a"), column("b")],
            })
        };
        let (one, two) = (table("one"), table("two"));
        let row = |at: usize| -> Row {
            let cell = match &values[at % values.len()] {
                None => Cell::NULL,
                Some(bytes) if bytes.len().is_multiple_of(2) => Cell::binary(bytes),
                Some(bytes) => Cell::text(bytes),
            };
            vec![cell, Cell::text("x")].into()
        };
        let changes = (0..values.len()).flat_map(|at| {
            let old = OldRow::Full(row(at));
            [
                ChangeEvent::Insert { table: one.clone(), new: row(at) },
                ChangeEvent::Message { prefix: "p".into(), content: Bytes::from_static(b"off") },
                ChangeEvent::Update {
                    table: two.clone(),
                    old: Some(old.clone()),
                    new: row(at + 1),
                },
                ChangeEvent::Delete { table: one.clone(), old },
            ]
        });
        changes.collect()
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back_as_it_was(
            values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), 1..20),
            most in 1..400usize,
        ) {
            let changes = changes(&values);
            let pieces: Vec<_> = Pieces::new(&changes, most).map(Result::unwrap).collect();
            let mut found = Vec::new();
            for piece in pieces {
                let described = u32::from_le_bytes(piece[..4].try_into().unwrap()) as usize;
                let bytes = piece.len() - 4 - described;
                let changes = decode(piece.into()).unwrap();
                prop_assert!(bytes <= most || changes.len() == 1, "{} bytes", bytes);
                found.extend(changes);
            }
            prop_assert_eq!(found, changes);
        }

        #[test]
        fn what_is_damaged_is_no_piece_and_never_panics(cut in 0..200usize, flip: u8) {
            let changes = changes(&[Some(b"abc".to_vec()), None]);
            let mut piece = Pieces::new(&changes, 1 << 20).next().unwrap().unwrap();
            let at = cut % piece.len();
            piece[at] ^= flip;
            let _ = decode(piece.clone().into());
            piece.truncate(at);
            let _ = decode(piece.into());
        }
    }
}
