//! Rows as the data of a COPY, in pieces (PostgreSQL manual, COPY, File Formats).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use decoders::change::{Row, Value};

use crate::plan::{CopyFormat, InnerOids, TablePlan};

/// Bytes of a piece, about: enough to be worth a message, small enough to be reused by the
/// allocator.
const PIECE_BYTES: usize = 64 * 1024;

const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const BINARY_TRAILER: &[u8] = b"\xff\xff";

/// The format that all values of `rows` allow. `None` if some are text and some binary, or one was
/// left out.
pub(super) fn format<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<CopyFormat> {
    let mut format = None;
    for cell in rows.flat_map(Row::cells) {
        let this = match cell.value()? {
            Value::Null => continue,
            Value::Text(_) => CopyFormat::Text,
            Value::Binary(_) => CopyFormat::Binary,
        };
        if *format.get_or_insert(this) != this {
            return None;
        }
    }
    Some(format.unwrap_or(CopyFormat::Text))
}

/// The columns of rows for `plan` that have OIDs inside.
pub(super) fn inner_oids(plan: &TablePlan) -> Vec<(usize, Arc<InnerOids>)> {
    let inner = |at| Some((at, plan.green_column(at).inner_oids.clone()?));
    (0..plan.schema().columns.len()).filter_map(inner).collect()
}

/// The data of a COPY, piece by piece. Here each value is copied, once, into the piece; the driver
/// copies the piece into what it sends.
pub(super) struct Pieces<I> {
    rows: I,
    format: CopyFormat,
    /// By position in the rows.
    inner_oids: Vec<(usize, Arc<InnerOids>)>,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    Begin,
    Rows,
    Done,
}

impl<'a, I: Iterator<Item = &'a Row>> Pieces<I> {
    /// `rows` must have the format that [`format`] found.
    pub fn new(rows: I, format: CopyFormat, inner_oids: Vec<(usize, Arc<InnerOids>)>) -> Self {
        Self { rows, format, inner_oids, stage: Stage::Begin }
    }
}

impl<'a, I: Iterator<Item = &'a Row>> Iterator for Pieces<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.stage == Stage::Done {
            return None;
        }
        let mut out = BytesMut::with_capacity(PIECE_BYTES);
        let binary = self.format == CopyFormat::Binary;
        if self.stage == Stage::Begin {
            self.stage = Stage::Rows;
            if binary {
                out.put_slice(BINARY_HEADER);
            }
        }
        // A row begins a new piece rather than make this one grow.
        while out.len() < PIECE_BYTES - PIECE_BYTES / 8 {
            match self.rows.next() {
                Some(row) if binary => put_binary(&mut out, row, &self.inner_oids),
                Some(row) => put_text(&mut out, row),
                None => {
                    self.stage = Stage::Done;
                    if binary {
                        out.put_slice(BINARY_TRAILER);
                    }
                    break;
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

// `format` has looked at every cell: none was left out. PostgreSQL has at most 1600 columns, and no
// value of 2 GiB.
fn put_binary(out: &mut BytesMut, row: &Row, inner_oids: &[(usize, Arc<InnerOids>)]) {
    out.put_u16(row.width() as u16);
    let mut inner_oids = inner_oids.iter().peekable();
    for (at, cell) in row.cells().enumerate() {
        let inner = inner_oids.next_if(|(position, _)| *position == at);
        match cell.value().and_then(Value::bytes) {
            None => out.put_i32(-1),
            Some(bytes) => {
                out.put_u32(bytes.len() as u32);
                let start = out.len();
                out.put_slice(bytes);
                if let Some((_, inner)) = inner {
                    inner.replace(&mut out[start..]);
                }
            }
        }
    }
}

fn put_text(out: &mut BytesMut, row: &Row) {
    for (at, cell) in row.cells().enumerate() {
        if at > 0 {
            out.put_u8(b'\t');
        }
        match cell.value().and_then(Value::bytes) {
            None => out.put_slice(b"\\N"),
            Some(bytes) => put_escaped(out, bytes),
        }
    }
    out.put_u8(b'\n');
}

fn put_escaped(out: &mut BytesMut, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r'))
    {
        out.put_slice(&rest[..at]);
        out.put_slice(match rest[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use decoders::change::Cell;

    use super::*;

    fn all(rows: &[Row]) -> Option<Vec<u8>> {
        let format = format(rows.iter())?;
        Some(Pieces::new(rows.iter(), format, vec![]).flatten().collect())
    }

    #[test]
    fn text_is_escaped() {
        let rows: [Row; 2] = [
            [Cell::text("a\tb\\c\nd\re"), Cell::NULL, Cell::text("")].into_iter().collect(),
            [Cell::text("\\."), Cell::text("\\N"), Cell::text("x")].into_iter().collect(),
        ];
        let data = all(&rows).expect("one format");
        let expected = "a\\tb\\\\c\\nd\\re\t\\N\t\n\\\\.\t\\\\N\tx\n";
        assert_eq!(String::from_utf8(data).expect("text"), expected);
    }

    #[test]
    fn binary_has_header_and_trailer() {
        let rows: [Row; 1] = [[Cell::binary(b"\x01\x02"), Cell::NULL].into_iter().collect()];
        let data = all(&rows).expect("one format");
        let tuple = b"\0\x02\0\0\0\x02\x01\x02\xff\xff\xff\xff";
        assert_eq!(data, [BINARY_HEADER, tuple, BINARY_TRAILER].concat());
    }

    #[test]
    fn many_rows_are_many_pieces() {
        let row: Row = [Cell::text("0123456789")].into_iter().collect();
        let rows = vec![row; 50_000];
        let pieces: Vec<Bytes> = Pieces::new(rows.iter(), CopyFormat::Text, vec![]).collect();
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 50_000 * 11);
    }

    #[test]
    fn mixed_or_missing_values_have_no_format() {
        let mixed: Row = [Cell::text("a"), Cell::binary(b"a")].into_iter().collect();
        let gap: Row = [Cell::text("a"), Cell::Unchanged].into_iter().collect();
        assert_eq!(all(&[mixed]), None);
        assert_eq!(all(&[gap]), None);
    }
}
