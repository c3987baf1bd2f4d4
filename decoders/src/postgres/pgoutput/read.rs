//! A cursor over one frame: every read is checked, every error knows its offset.

use std::ops::Range;

use bytes::Bytes;

use super::error::{DecodeError, DecodeErrorKind};
use crate::change::{Lsn, Row};

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Reads one frame from front to back.
pub(super) struct Reader<'a> {
    frame: &'a Bytes,
    /// What was not read yet. A slice and not an index: every read then costs one comparison.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(frame: &'a Bytes) -> Self {
        Self { frame, rest: frame }
    }

    /// Bytes from the start of the frame to the cursor.
    fn at(&self) -> usize {
        self.frame.len() - self.rest.len()
    }

    /// An error about the byte at which the cursor stands.
    #[cold]
    pub(super) fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        self.error_at(self.at(), kind)
    }

    /// An error about the `width` bytes that were just read.
    #[cold]
    fn error_before(&self, width: usize, kind: DecodeErrorKind) -> DecodeError {
        self.error_at(self.at().saturating_sub(width), kind)
    }

    #[cold]
    fn error_at(&self, offset: usize, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { offset, tag: self.frame.first().copied(), kind }
    }

    /// The frame that is read.
    pub(super) fn frame(&self) -> &'a Bytes {
        self.frame
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Fails unless the whole frame has been read.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.error(DecodeErrorKind::TrailingBytes(left))),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(*chunk)
            }
            None => Err(self.error(DecodeErrorKind::Truncated { needed: N, left: self.left() })),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|raw| Lsn(u64::from_be_bytes(raw)))
    }

    /// A time on the wire, as microseconds since the Unix epoch.
    pub(super) fn time_us(&mut self) -> Result<i64, DecodeError> {
        let since_2000 = self.array().map(i64::from_be_bytes)?;
        since_2000
            .checked_add(POSTGRES_EPOCH_US)
            .ok_or_else(|| self.error_before(8, DecodeErrorKind::TimeOutOfRange))
    }

    /// A count of items in 16 bits, each of which takes at least `item_bytes` of the frame. The
    /// check keeps what a caller reserves in proportion to what was really received.
    pub(super) fn count16(
        &mut self,
        what: &'static str,
        item_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let raw = self.array().map(i16::from_be_bytes)?;
        self.count(what, i32::from(raw), 2, item_bytes)
    }

    /// The same with the count in 32 bits.
    pub(super) fn count32(
        &mut self,
        what: &'static str,
        item_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let raw = self.i32()?;
        self.count(what, raw, 4, item_bytes)
    }

    /// Checks a count that was read `width` bytes ago.
    #[inline]
    fn count(
        &self,
        what: &'static str,
        raw: i32,
        width: usize,
        item_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let count = usize::try_from(raw).map_err(|_| {
            self.error_before(width, DecodeErrorKind::Negative { what, found: raw })
        })?;
        let needed = count.saturating_mul(item_bytes);
        if needed > self.left() {
            return Err(self.error(DecodeErrorKind::Truncated { needed, left: self.left() }));
        }
        Ok(count)
    }

    /// Where the bytes are that have a 32-bit length before them, which may be `most`.
    #[inline]
    pub(super) fn sized_range(
        &mut self,
        what: &'static str,
        most: usize,
    ) -> Result<Range<usize>, DecodeError> {
        let length = self.count32(what, 1)?;
        if length > most {
            return Err(self.error_before(4, DecodeErrorKind::TooLong { what, found: length }));
        }
        let start = self.at();
        // `count32` has seen that so many are left.
        self.rest = self.rest.get(length..).unwrap_or_default();
        Ok(start..start + length)
    }

    /// The kind of the next cell and where its value is, if nothing is wrong with it. Otherwise
    /// nothing is read, and the checked reads say what is wrong: a stream is made of cells, and an
    /// error that is never returned costs more than the cell.
    #[inline]
    pub(super) fn cell(&mut self) -> Option<(u8, Range<usize>)> {
        let (&kind, rest) = self.rest.split_first()?;
        match kind {
            b'n' | b'u' => {
                self.rest = rest;
                Some((kind, 0..0))
            }
            b't' | b'b' => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let length = u32::from_be_bytes(*length) as usize;
                let behind = rest.get(length..)?;
                if length > Row::VALUE_BYTES_MAX {
                    return None;
                }
                let start = self.frame.len() - rest.len();
                self.rest = behind;
                Some((kind, start..start + length))
            }
            _ => None,
        }
    }

    /// Bytes with a 32-bit length before them: a slice of the frame, not a copy.
    pub(super) fn sized_bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let range = self.sized_range(what, usize::MAX)?;
        Ok(self.frame.slice(range))
    }

    /// A string that ends with a zero byte. The cursor stands behind that byte afterwards.
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.rest;
        let Some(length) = rest.iter().position(|&byte| byte == 0) else {
            return Err(self.error(DecodeErrorKind::Unterminated));
        };
        let text = std::str::from_utf8(&rest[..length])
            .map_err(|_| self.error(DecodeErrorKind::NotUtf8))?;
        self.rest = rest.get(length + 1..).unwrap_or_default();
        Ok(text)
    }

    /// A byte of flags of which only those in `known` may be set.
    pub(super) fn flags(&mut self, what: &'static str, known: u8) -> Result<u8, DecodeError> {
        match self.u8()? {
            found if found & !known == 0 => Ok(found),
            found => Err(self.error_before(1, DecodeErrorKind::UnknownFlags { what, found })),
        }
    }

    /// The error for a byte, just read, that is none of the letters allowed there.
    pub(super) fn unknown_byte(&self, what: &'static str, found: u8) -> DecodeError {
        self.error_before(1, DecodeErrorKind::UnknownByte { what, found })
    }
}
