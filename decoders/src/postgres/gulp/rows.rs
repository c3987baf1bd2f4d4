//! The binary format of COPY, as far as a gulp needs it: rows of one `bytea` (manual, COPY, "Binary
//! Format"). Pure: CopyData payloads in, slices of them out.

use bytes::{Buf, Bytes};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Signature, flags, length of the extension.
const HEADER_BYTES: usize = SIGNATURE.len() + 4 + 4;

/// Flags that a reader must know to go on.
const CRITICAL_FLAGS: u32 = 0xffff_0000;

/// Number of columns and length of the only one.
const ROW_HEADER_BYTES: usize = 2 + 4;

/// Bytes that are not the rows that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RowsError {
    #[error("the data of COPY does not begin with its header")]
    Header,
    #[error("a row of COPY has {0} columns instead of 1")]
    Columns(i16),
    #[error("a value in the data of COPY is NULL")]
    Null,
    #[error("a row of COPY does not fill its message")]
    Length,
    #[error("the data of COPY goes on behind its end")]
    Trailing,
    #[error("the data of COPY has no end")]
    Unfinished,
}

/// Reads the result of one COPY. Each CopyData of a server holds one row, the first one the header
/// as well, and the last one only the trailer.
#[derive(Debug, Default)]
pub(super) struct Rows {
    begun: bool,
    ended: bool,
}

impl Rows {
    /// The value in one CopyData; `None` if it holds no row.
    pub(super) fn value(&mut self, mut data: Bytes) -> Result<Option<Bytes>, RowsError> {
        if !self.begun {
            data.advance(header_bytes(&data)?);
            self.begun = true;
            if data.is_empty() {
                return Ok(None);
            }
        }
        if self.ended {
            return Err(RowsError::Trailing);
        }
        let columns = data.first_chunk().copied().map(i16::from_be_bytes);
        match columns.ok_or(RowsError::Length)? {
            1 => {}
            -1 if data.len() == 2 => {
                self.ended = true;
                return Ok(None);
            }
            columns => return Err(RowsError::Columns(columns)),
        }
        let length = data.get(2..).and_then(|rest| rest.first_chunk()).copied();
        let length = i32::from_be_bytes(length.ok_or(RowsError::Length)?);
        if length < 0 {
            return Err(RowsError::Null);
        }
        let value = data.split_off(ROW_HEADER_BYTES);
        if usize::try_from(length) != Ok(value.len()) {
            return Err(RowsError::Length);
        }
        Ok(Some(value))
    }

    /// The COPY is over: everything has to be there.
    pub(super) fn finish(self) -> Result<(), RowsError> {
        if self.ended { Ok(()) } else { Err(RowsError::Unfinished) }
    }
}

fn header_bytes(data: &[u8]) -> Result<usize, RowsError> {
    let rest = data.strip_prefix(SIGNATURE).ok_or(RowsError::Header)?;
    let word = |at: usize| {
        let bytes = rest.get(at..).and_then(|rest| rest.first_chunk()).copied();
        bytes.map(u32::from_be_bytes).ok_or(RowsError::Header)
    };
    let (flags, extension) = (word(0)?, word(4)?);
    let length = usize::try_from(extension).ok().and_then(|extra| extra.checked_add(HEADER_BYTES));
    match length {
        Some(length) if flags & CRITICAL_FLAGS == 0 && length <= data.len() => Ok(length),
        _ => Err(RowsError::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        bytes
    }

    fn row(value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend((value.len() as i32).to_be_bytes());
        bytes.extend(value);
        bytes
    }

    #[test]
    fn values_come_out_without_a_copy() {
        let mut rows = Rows::default();
        let first = Bytes::from([header(), row(b"one")].concat());
        let value = rows.value(first.clone()).unwrap().unwrap();
        assert_eq!(&value[..], b"one");
        assert_eq!(value.as_ptr(), first[25..].as_ptr());
        assert_eq!(rows.value(row(b"").into()), Ok(Some(Bytes::new())));
        assert_eq!(rows.value(vec![0xff, 0xff].into()), Ok(None));
        assert_eq!(rows.value(row(b"x").into()), Err(RowsError::Trailing));
        assert_eq!(rows.finish(), Ok(()));
    }

    #[test]
    fn a_header_by_itself_is_fine_and_an_extension_is_skipped() {
        let mut rows = Rows::default();
        let mut long = header();
        long[18] = 3;
        long.extend(b"ext");
        assert_eq!(rows.value(long.into()), Ok(None));
        assert_eq!(rows.value(row(b"x").into()), Ok(Some(Bytes::from_static(b"x"))));
        assert_eq!(rows.finish(), Err(RowsError::Unfinished));
    }

    #[test]
    fn what_is_not_one_whole_value_is_an_error() {
        let begun = || Rows { begun: true, ended: false };
        let mut flagged = header();
        flagged[11] = 1;
        for header in [vec![], b"PGCOPY".to_vec(), flagged] {
            assert_eq!(Rows::default().value(header.into()), Err(RowsError::Header));
        }
        let cases = [
            (vec![0], RowsError::Length),
            (vec![0, 2, 0, 0, 0, 0], RowsError::Columns(2)),
            (vec![0xff, 0xff, 0], RowsError::Columns(-1)),
            (vec![0, 1, 0, 0], RowsError::Length),
            (vec![0, 1, 0xff, 0xff, 0xff, 0xff], RowsError::Null),
            (vec![0, 1, 0, 0, 0, 2, 7], RowsError::Length),
            (vec![0, 1, 0, 0, 0, 0, 7], RowsError::Length),
        ];
        for (data, expected) in cases {
            assert_eq!(begun().value(data.into()), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(first: Vec<u8>, second: Vec<u8>, begun: bool) {
            let mut rows = Rows { begun, ended: false };
            let _ = rows.value(first.into());
            let _ = rows.value(second.into());
        }
    }
}
