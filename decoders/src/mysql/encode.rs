//! Binlog events as a client writes them for the BINLOG statement: a description of the format, then for
//! each statement the table and rows.
//!
//! No checksums: the description says so. Numbers of tables mean nothing beyond one statement.

use super::format::Flavor;
use super::header::{HEADER_BYTES, event_header};
use super::rows::{Operation, Rows};
use super::server::Server;
use crate::change::{QualifiedName, RowForm};

/// Bytes behind the header that every event of a type begins with, from type 1 on: what the servers say
/// themselves (MySQL 9.7, MariaDB 10.11 and 11.8). Those of FORMAT_DESCRIPTION (15) are left out.
const MYSQL: [u8; 42] = [
    0, 13, 0, 8, 0, 0, 0, 0, 4, 0, 4, 0, 0, 0, 0, 0, 4, 26, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 10,
    10, 10, 42, 42, 0, 18, 52, 0, 10, 40, 0, 0,
];
const MARIADB: [u8; 41] = [
    56, 13, 0, 8, 0, 18, 0, 4, 4, 4, 4, 18, 0, 0, 0, 0, 4, 26, 8, 0, 0, 0, 8, 8, 8, 2, 0, 0, 0, 10,
    10, 10, 0, 0, 0, 0, 0, 0, 10, 10, 10,
];
/// MariaDB's own types, from 161 on.
const MARIADB_OWN: [u8; 11] = [4, 19, 4, 0, 13, 8, 8, 8, 10, 10, 10];
const MARIADB_TYPES: usize = 171;

const FORMAT_DESCRIPTION: usize = 15;
const TABLE_MAP: u8 = 19;

/// The event that has to come first in a session: how the others are written.
pub fn format_description(server: &Server) -> Vec<u8> {
    let mut lengths = match server.flavor {
        Flavor::Mysql => MYSQL.to_vec(),
        Flavor::Mariadb => {
            let mut lengths = MARIADB.to_vec();
            lengths.resize(MARIADB_TYPES - MARIADB_OWN.len(), 0);
            lengths.extend(MARIADB_OWN);
            lengths
        }
    };
    lengths[FORMAT_DESCRIPTION - 1] = u8::try_from(57 + lengths.len()).unwrap_or(u8::MAX);
    let mut body = 4u16.to_le_bytes().to_vec();
    let mut version = server.version.as_bytes().to_vec();
    version.resize(50, 0);
    version[49] = 0;
    body.extend(version);
    body.extend(0u32.to_le_bytes());
    body.push(HEADER_BYTES as u8);
    body.extend(lengths);
    // No checksums. This event has one nevertheless.
    body.push(0);
    let mut event =
        event_header(FORMAT_DESCRIPTION as u8, server.server_id, body.len() + 4).to_vec();
    event.extend(body);
    let checksum = crc32fast::hash(&event);
    event.extend(checksum.to_le_bytes());
    event
}

/// Writes events for tables of one name and form.
#[derive(Clone, Debug)]
pub struct RowEvents {
    flavor: Flavor,
    server_id: u32,
    width: usize,
    map: Vec<u8>,
}

/// The number under which a statement's rows find their table.
const TABLE_ID: u64 = 1;

impl RowEvents {
    /// For a table of `server`. `None` if the name is longer than an event can say.
    pub fn new(server: &Server, table: &QualifiedName, form: &RowForm) -> Option<RowEvents> {
        let mut body = TABLE_ID.to_le_bytes()[..6].to_vec();
        body.extend(1u16.to_le_bytes());
        for name in [&table.schema, &table.name] {
            body.push(u8::try_from(name.len()).ok()?);
            body.extend(name.as_bytes());
            body.push(0);
        }
        let width = form.columns.len();
        packed(&mut body, width);
        body.extend(form.columns.iter().map(|column| column.code));
        let metadata: Vec<u8> =
            form.columns.iter().flat_map(|column| column.metadata.iter().copied()).collect();
        packed(&mut body, metadata.len());
        body.extend(metadata);
        body.extend(bits(form.columns.iter().map(|column| column.nullable)));
        let mut map = event_header(TABLE_MAP, server.server_id, body.len()).to_vec();
        map.extend(body);
        Some(RowEvents { flavor: server.flavor, server_id: server.server_id, width, map })
    }

    /// The table and one event with these images: of an update the old and the new one of each row. `flags`:
    /// those of [`Rows`]; that the statement ends here is added.
    pub fn statement(&self, operation: Operation, flags: u16, images: &[u8]) -> Vec<u8> {
        let first = match self.flavor {
            // Version 2; MariaDB writes version 1.
            Flavor::Mysql => 30,
            Flavor::Mariadb => 23,
        };
        let code = first
            + match operation {
                Operation::Insert => 0,
                Operation::Update => 1,
                Operation::Delete => 2,
            };
        let mut body = TABLE_ID.to_le_bytes()[..6].to_vec();
        body.extend((flags | Rows::STATEMENT_END).to_le_bytes());
        if self.flavor == Flavor::Mysql {
            // No further information: the length counts itself.
            body.extend(2u16.to_le_bytes());
        }
        packed(&mut body, self.width);
        let all = bits(std::iter::repeat_n(true, self.width));
        body.extend(&all);
        if operation == Operation::Update {
            body.extend(&all);
        }
        let mut events = self.map.clone();
        events.reserve(HEADER_BYTES + body.len() + images.len());
        events.extend(event_header(code, self.server_id, body.len() + images.len()));
        events.extend(body);
        events.extend(images);
        events
    }
}

/// A bit for each column, the lowest for the first.
fn bits(columns: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let mut bytes = vec![0; columns.len().div_ceil(8)];
    for (at, set) in columns.enumerate() {
        bytes[at / 8] |= u8::from(set) << (at % 8);
    }
    bytes
}

/// A length-encoded number, as the protocol has it.
fn packed(out: &mut Vec<u8>, number: usize) {
    match number {
        0..=250 => out.push(number as u8),
        251..=0xFFFF => {
            out.push(252);
            out.extend(&number.to_le_bytes()[..2]);
        }
        _ => {
            out.push(253);
            out.extend(&number.to_le_bytes()[..3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::change::ColumnForm;
    use crate::mysql::{Body, Decoder, Limits, TableMap, WireType, form};

    fn server(flavor: Flavor) -> Server {
        Server { flavor, version: "11.8.6-MariaDB-log".into(), number: (11, 8, 6), server_id: 7 }
    }

    fn events(bytes: &[u8]) -> Vec<Bytes> {
        let mut rest = bytes;
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[9..13].try_into().unwrap()) as usize;
            events.push(Bytes::copy_from_slice(&rest[..length]));
            rest = &rest[length..];
        }
        events
    }

    /// What is written is what our decoder reads, whatever the width.
    #[test]
    fn events_are_read_as_they_were_written() {
        for flavor in [Flavor::Mysql, Flavor::Mariadb] {
            for width in [1, 8, 9, 300] {
                let wires = [
                    WireType::Integer { bytes: 3 },
                    WireType::Char { most: 1020 },
                    WireType::Bit { bits: 13 },
                    WireType::Decimal { precision: 65, scale: 30 },
                    WireType::Varchar { most: 400 },
                    WireType::Set { bytes: 8 },
                ];
                let columns: Vec<_> =
                    (0..width).map(|at| (wires[at % wires.len()], at % 3 == 0)).collect();
                let form = RowForm {
                    columns: columns
                        .iter()
                        .map(|(wire, null)| form::written(*wire, *null))
                        .collect(),
                };
                let server = server(flavor);
                let mut decoder = Decoder::new(Limits::default());
                let described = Bytes::from(format_description(&server));
                let Body::FormatDescription(described) = decoder.decode(&described).unwrap().body
                else {
                    panic!("no description")
                };
                assert_eq!((described.flavor, described.checksum), (flavor, false));
                let name = QualifiedName::new("it's", "t");
                let writer = RowEvents::new(&server, &name, &form).unwrap();
                let written = writer.statement(Operation::Update, 2, b"images");
                let found: Vec<_> = events(&written)
                    .iter()
                    .map(|event| decoder.decode(event).unwrap().body)
                    .collect();
                let [Body::TableMap(map), Body::Rows(rows)] = &found[..] else {
                    panic!("{found:?}")
                };
                let TableMap { schema, table, .. } = &**map;
                assert_eq!((schema.as_str(), table.as_str()), ("it's", "t"));
                let read: Vec<_> = map.columns.iter().map(|c| (c.wire, c.nullable)).collect();
                assert_eq!(read, columns);
                assert_eq!((rows.table_id, rows.flags, rows.width), (map.table_id, 3, width));
                assert!(rows.is_complete() && rows.operation == Operation::Update);
                assert_eq!(rows.image_bytes(), 6);
            }
        }
    }

    #[test]
    fn a_name_that_no_event_can_say_is_no_table() {
        let form = RowForm { columns: Vec::<ColumnForm>::new() };
        let name = QualifiedName::new("x".repeat(256), "t");
        assert!(RowEvents::new(&server(Flavor::Mysql), &name, &form).is_none());
    }
}
