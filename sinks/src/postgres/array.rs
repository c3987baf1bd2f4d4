//! One column of many rows as an array parameter.
//!
//! The values go from the frames that they came in straight into the message to green, in the form
//! in which they came: binary values as a binary array (`array_recv` in `arrayfuncs.c`), text
//! values as an array literal (PostgreSQL manual, 8.15.6 Array Input and Output Syntax).

use std::fmt;

use bytes::{BufMut, BytesMut};
use decoders::change::{Row, Value};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::catalog::ArrayType;
use crate::plan::Slot;

/// The row before and after a change, as far as a statement needs them.
#[derive(Clone, Copy)]
pub(super) struct Images<'a> {
    pub old: Option<&'a Row>,
    pub new: Option<&'a Row>,
}

impl<'a> Images<'a> {
    /// The value for a slot, unless the source left it out.
    pub fn value(self, slot: Slot) -> Option<Value<'a>> {
        match slot {
            Slot::New(at) => self.new?.value(at),
            Slot::Old(at) => self.old?.value(at),
        }
    }
}

/// The form that all values of a column share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Text,
    Binary,
}

/// What the values of one column come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Column {
    pub form: Form,
    /// Bytes of all values.
    pub bytes: usize,
    pub has_null: bool,
}

impl Column {
    /// Looks at one column of `rows`. `None` if they can't be one array: a value is missing or
    /// they have different forms. A column of NULLs is as good as binary.
    pub fn of<'a>(rows: &[Images<'a>], slot: Slot) -> Option<Self> {
        let mut form = None;
        let mut bytes = 0;
        let mut has_null = false;
        for row in rows {
            let (this, length) = match row.value(slot)? {
                Value::Null => {
                    has_null = true;
                    continue;
                }
                Value::Text(value) => (Form::Text, value.len()),
                Value::Binary(value) => (Form::Binary, value.len()),
            };
            bytes += length;
            if *form.get_or_insert(this) != this {
                return None;
            }
        }
        Some(Self { form: form.unwrap_or(Form::Binary), bytes, has_null })
    }

    /// Bytes of the array, exactly for binary, and without escapes for text.
    pub fn message_bytes(&self, rows: usize) -> usize {
        20 + self.bytes + 4 * rows
    }
}

/// One column of `rows` as an array.
pub(super) struct ArrayParam<'a> {
    pub rows: &'a [Images<'a>],
    pub slot: Slot,
    pub column: Column,
    pub element_oid: u32,
    pub array: ArrayType,
}

impl fmt::Debug for ArrayParam<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl ArrayParam<'_> {
    fn values(&self) -> impl Iterator<Item = Value<'_>> {
        // `Column::of` has seen that every value is there.
        self.rows.iter().map(|row| row.value(self.slot).unwrap_or(Value::Null))
    }

    fn binary(&self, out: &mut BytesMut) -> Result<(), Box<dyn std::error::Error + Sync + Send>> {
        out.put_i32(1);
        out.put_i32(self.column.has_null.into());
        out.put_u32(self.element_oid);
        out.put_i32(i32::try_from(self.rows.len())?);
        out.put_i32(1);
        for value in self.values() {
            match value.bytes() {
                None => out.put_i32(-1),
                Some(bytes) => {
                    out.put_i32(i32::try_from(bytes.len())?);
                    out.put_slice(bytes);
                }
            }
        }
        Ok(())
    }

    fn text(&self, out: &mut BytesMut) {
        let mut before = b'{';
        for value in self.values() {
            out.put_u8(before);
            before = self.array.delimiter;
            match value.bytes() {
                None => out.put_slice(b"NULL"),
                Some(bytes) => put_element(out, bytes),
            }
        }
        out.put_u8(b'}');
    }
}

/// Numbers stand as they are; everything else is quoted, which is never wrong.
fn put_element(out: &mut BytesMut, bytes: &[u8]) {
    let is_plain = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        out.put_slice(bytes);
        return;
    }
    out.put_u8(b'"');
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        out.put_slice(&rest[..at]);
        out.put_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
    out.put_u8(b'"');
}

impl ToSql for ArrayParam<'_> {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.column.form {
            Form::Binary => self.binary(out)?,
            Form::Text => self.text(out),
        }
        Ok(IsNull::No)
    }

    fn accepts(_type: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _type: &Type) -> Format {
        match self.column.form {
            Form::Text => Format::Text,
            Form::Binary => Format::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use decoders::change::Cell;

    use super::*;

    fn encoded(rows: &[Row]) -> Option<Vec<u8>> {
        let images: Vec<Images<'_>> =
            rows.iter().map(|row| Images { old: None, new: Some(row) }).collect();
        let slot = Slot::New(0);
        let column = Column::of(&images, slot)?;
        let array = ArrayType { oid: 1, delimiter: b';' };
        let param = ArrayParam { rows: &images, slot, column, element_oid: 25, array };
        let mut out = BytesMut::new();
        param.to_sql(&Type::TEXT_ARRAY, &mut out).expect("encoded");
        if column.form == Form::Binary {
            assert_eq!(out.len(), column.message_bytes(rows.len()));
        }
        Some(out.to_vec())
    }

    fn row(cell: Cell<'_>) -> Row {
        [cell].into_iter().collect()
    }

    #[test]
    fn text_is_quoted_where_it_could_mean_something_else() {
        let values = ["1", "-2.5", "", "null", "a b", "x;y", "{", "q\"u\\o", "\u{e9}"];
        let mut rows: Vec<Row> = values.iter().map(|value| row(Cell::text(value))).collect();
        rows.push(row(Cell::NULL));
        let literal = encoded(&rows).expect("one form");
        assert_eq!(
            String::from_utf8(literal).expect("text"),
            "{1;-2.5;\"\";\"null\";\"a b\";\"x;y\";\"{\";\"q\\\"u\\\\o\";\"\u{e9}\";NULL}"
        );
    }

    #[test]
    fn binary_is_the_servers_array_format() {
        let rows = [row(Cell::binary(b"ab")), row(Cell::NULL)];
        let expected = [
            &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1][..],
            &[0, 0, 0, 2, b'a', b'b', 255, 255, 255, 255],
        ];
        assert_eq!(encoded(&rows), Some(expected.concat()));
    }

    #[test]
    fn what_is_mixed_or_missing_is_no_array() {
        assert_eq!(encoded(&[row(Cell::binary(b"a")), row(Cell::text("a"))]), None);
        assert_eq!(encoded(&[row(Cell::text("a")), row(Cell::Unchanged)]), None);
    }
}
