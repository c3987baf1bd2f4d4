//! The other direction, for tests only: messages to frames, written from the manual and not from
//! the decoder.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, Origin, Relation, StreamAbort,
    StreamCommit, StreamControl, StreamStart, Truncate, TypeName, Update,
};
use crate::change::{
    Cell, Column, Lsn, OldRow, QualifiedName, ReplicaIdentity, Row, TableId, TableSchema, Value,
};

const EPOCH_US: i64 = 946_684_800_000_000;

pub(crate) fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.0);
            out.put_i64(begin.committed_at_us - EPOCH_US);
            out.put_u32(begin.xid);
        }
        Message::Commit(commit) => {
            out.put_u8(b'C');
            out.put_u8(0);
            out.put_u64(commit.commit_lsn.0);
            out.put_u64(commit.end_lsn.0);
            out.put_i64(commit.committed_at_us - EPOCH_US);
        }
        Message::Origin(origin) => {
            out.put_u8(b'O');
            out.put_u64(origin.origin_lsn.0);
            string(&mut out, &origin.name);
        }
        Message::Relation(Relation(table)) => relation(&mut out, table),
        Message::Type(name) => {
            out.put_u8(b'Y');
            out.put_u32(name.oid);
            qualified(&mut out, &name.name);
        }
        Message::Insert(insert) => {
            out.put_u8(b'I');
            out.put_u32(insert.table.0);
            row(&mut out, b'N', &insert.new);
        }
        Message::Update(update) => {
            out.put_u8(b'U');
            out.put_u32(update.table.0);
            if let Some(old) = &update.old {
                old_row(&mut out, old);
            }
            row(&mut out, b'N', &update.new);
        }
        Message::Delete(delete) => {
            out.put_u8(b'D');
            out.put_u32(delete.table.0);
            old_row(&mut out, &delete.old);
        }
        Message::Truncate(truncate) => {
            out.put_u8(b'T');
            out.put_i32(truncate.tables.len() as i32);
            out.put_u8(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            truncate.tables.iter().for_each(|table| out.put_u32(table.0));
        }
        Message::Logical(message) => {
            out.put_u8(b'M');
            out.put_u8(u8::from(message.transactional));
            out.put_u64(message.lsn.0);
            string(&mut out, &message.prefix);
            sized(&mut out, &message.content);
        }
    }
    out.freeze()
}

/// A message of a block: the transaction's id behind the first byte, except in Origin.
pub(crate) fn encode_streamed(xid: u32, message: &Message) -> Bytes {
    let plain = encode(message);
    let Some((tag, rest)) = plain.split_first().filter(|(tag, _)| **tag != b'O') else {
        return plain;
    };
    let mut out = BytesMut::new();
    out.put_u8(*tag);
    out.put_u32(xid);
    out.put_slice(rest);
    out.freeze()
}

pub(crate) fn encode_control(control: &StreamControl) -> Bytes {
    let mut out = BytesMut::new();
    match control {
        StreamControl::Start(start) => {
            out.put_u8(b'S');
            out.put_u32(start.xid);
            out.put_u8(u8::from(start.first));
        }
        StreamControl::Stop => out.put_u8(b'E'),
        StreamControl::Commit(commit) => {
            out.put_u8(b'c');
            out.put_u32(commit.xid);
            out.put_u8(0);
            out.put_u64(commit.commit_lsn.0);
            out.put_u64(commit.end_lsn.0);
            out.put_i64(commit.committed_at_us - EPOCH_US);
        }
        StreamControl::Abort(abort) => {
            out.put_u8(b'A');
            out.put_u32(abort.xid);
            out.put_u32(abort.sub_xid);
        }
    }
    out.freeze()
}

pub(crate) fn any_control() -> impl Strategy<Value = StreamControl> {
    let xid = any::<u32>;
    let lsn = || any::<u64>().prop_map(Lsn);
    prop_oneof![
        (xid(), any::<bool>())
            .prop_map(|(xid, first)| StreamControl::Start(StreamStart { xid, first })),
        Just(StreamControl::Stop),
        (xid(), lsn(), lsn(), EPOCH_US..i64::MAX).prop_map(
            |(xid, commit_lsn, end_lsn, committed_at_us)| {
                StreamControl::Commit(StreamCommit { xid, commit_lsn, end_lsn, committed_at_us })
            }
        ),
        (xid(), xid())
            .prop_map(|(xid, sub_xid)| StreamControl::Abort(StreamAbort { xid, sub_xid })),
    ]
}

fn relation(out: &mut BytesMut, table: &TableSchema) {
    out.put_u8(b'R');
    out.put_u32(table.id.0);
    qualified(out, &table.name);
    out.put_u8(match table.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Index => b'i',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Nothing => b'n',
    });
    out.put_i16(table.columns.len() as i16);
    for column in &table.columns {
        out.put_u8(u8::from(column.in_key));
        string(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn qualified(out: &mut BytesMut, name: &QualifiedName) {
    string(out, if name.schema == "pg_catalog" { "" } else { &name.schema });
    string(out, &name.name);
}

fn old_row(out: &mut BytesMut, old: &OldRow) {
    match old {
        OldRow::Key(key) => row(out, b'K', key),
        OldRow::Full(full) => row(out, b'O', full),
    }
}

fn row(out: &mut BytesMut, kind: u8, row: &Row) {
    out.put_u8(kind);
    out.put_i16(row.width() as i16);
    for cell in row.cells() {
        match cell {
            Cell::Unchanged => out.put_u8(b'u'),
            Cell::Value(Value::Null) => out.put_u8(b'n'),
            Cell::Value(Value::Text(text)) => {
                out.put_u8(b't');
                sized(out, text);
            }
            Cell::Value(Value::Binary(bytes)) => {
                out.put_u8(b'b');
                sized(out, bytes);
            }
        }
    }
}

fn string(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn sized(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

fn any_name() -> impl Strategy<Value = String> {
    "[^\\x00]{1,12}"
}

fn any_qualified() -> impl Strategy<Value = QualifiedName> {
    (any_name(), any_name()).prop_map(|(schema, name)| QualifiedName { schema, name })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

#[derive(Clone, Debug)]
enum AnyCell {
    Null,
    Unchanged,
    Text(Bytes),
    Binary(Bytes),
}

impl AnyCell {
    fn as_cell(&self) -> Cell<'_> {
        match self {
            AnyCell::Null => Cell::NULL,
            AnyCell::Unchanged => Cell::Unchanged,
            AnyCell::Text(bytes) => Cell::text(bytes),
            AnyCell::Binary(bytes) => Cell::binary(bytes),
        }
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let cell = prop_oneof![
        Just(AnyCell::Null),
        Just(AnyCell::Unchanged),
        any_bytes().prop_map(AnyCell::Text),
        any_bytes().prop_map(AnyCell::Binary),
    ];
    proptest::collection::vec(cell, 0..8)
        .prop_map(|cells| cells.iter().map(AnyCell::as_cell).collect())
}

fn any_old_row() -> impl Strategy<Value = OldRow> {
    prop_oneof![any_row().prop_map(OldRow::Key), any_row().prop_map(OldRow::Full)]
}

fn any_table() -> impl Strategy<Value = TableSchema> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Index),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Nothing),
    ];
    let column = (any_name(), any::<u32>(), any::<i32>(), any::<bool>()).prop_map(
        |(name, type_oid, type_modifier, in_key)| Column { name, type_oid, type_modifier, in_key },
    );
    let columns = proptest::collection::vec(column, 0..8);
    (any::<u32>(), any_qualified(), identity, columns).prop_map(|(id, name, identity, columns)| {
        TableSchema { id: TableId(id), name, identity, columns }
    })
}

/// Any message, of any content that the format can express.
pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let table = || any::<u32>().prop_map(TableId);
    let time_us = || EPOCH_US..i64::MAX;
    prop_oneof![
        (lsn(), time_us(), any::<u32>()).prop_map(|(final_lsn, committed_at_us, xid)| {
            Message::Begin(Begin { final_lsn, committed_at_us, xid })
        }),
        (lsn(), lsn(), time_us()).prop_map(|(commit_lsn, end_lsn, committed_at_us)| {
            Message::Commit(Commit { commit_lsn, end_lsn, committed_at_us })
        }),
        (lsn(), any_name())
            .prop_map(|(origin_lsn, name)| Message::Origin(Origin { origin_lsn, name })),
        any_table().prop_map(|table| Message::Relation(Relation(table))),
        (any::<u32>(), any_qualified())
            .prop_map(|(oid, name)| Message::Type(TypeName { oid, name })),
        (table(), any_row()).prop_map(|(table, new)| Message::Insert(Insert { table, new })),
        (table(), proptest::option::of(any_old_row()), any_row())
            .prop_map(|(table, old, new)| Message::Update(Update { table, old, new })),
        (table(), any_old_row()).prop_map(|(table, old)| Message::Delete(Delete { table, old })),
        (proptest::collection::vec(table(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(tables, cascade, restart_identity)| {
                Message::Truncate(Truncate { tables, cascade, restart_identity })
            }
        ),
        (any::<bool>(), lsn(), any_name(), any_bytes()).prop_map(
            |(transactional, lsn, prefix, content)| {
                Message::Logical(LogicalMessage { transactional, lsn, prefix, content })
            }
        ),
    ]
}
