//! A cursor over bytes: every read is checked, so nothing that arrives can make it panic.

use super::error::Fault;

/// Reads from front to back. Numbers are little-endian unless the name says otherwise.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at byte {} of {}", self.at(), self.total)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: bytes.len() }
    }

    /// Bytes from the start to the cursor.
    pub(super) fn at(&self) -> usize {
        self.total - self.rest.len()
    }

    /// What lies between this cursor and a later one over the same bytes.
    pub(super) fn until(&self, later: &Reader<'a>) -> &'a [u8] {
        &self.rest[..self.rest.len().saturating_sub(later.rest.len())]
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that was not read yet.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Fails unless everything was read.
    pub(super) fn end(&self) -> Result<(), Fault> {
        match self.left() {
            0 => Ok(()),
            left => Err(Fault::TrailingBytes(left)),
        }
    }

    #[inline]
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        match self.rest.split_at_checked(count) {
            Some((read, rest)) => {
                self.rest = rest;
                Ok(read)
            }
            None => Err(Fault::Truncated { needed: count, left: self.rest.len() }),
        }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(*chunk)
            }
            None => Err(Fault::Truncated { needed: N, left: self.rest.len() }),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// An unsigned number of 1 to 8 bytes.
    #[inline]
    pub(super) fn uint(&mut self, width: usize) -> Result<u64, Fault> {
        self.bytes(width).map(little_endian)
    }

    /// A "length-encoded integer" of the client protocol.
    pub(super) fn packed(&mut self) -> Result<u64, Fault> {
        match self.u8()? {
            0xFC => self.uint(2),
            0xFD => self.uint(3),
            0xFE => self.u64(),
            found @ (0xFB | 0xFF) => {
                Err(Fault::Impossible { what: "length's first byte", found: found.into() })
            }
            small => Ok(small.into()),
        }
    }

    /// A packed number that counts things of which each takes at least one byte of what is left, so
    /// that whatever a caller reserves is in proportion to what was really received.
    pub(super) fn packed_count(&mut self) -> Result<usize, Fault> {
        let count = self.packed()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.left())
            .ok_or(Fault::Truncated { needed: clamp(count), left: self.left() })
    }

    /// Bytes with their packed length before them.
    pub(super) fn packed_bytes(&mut self) -> Result<&'a [u8], Fault> {
        let count = self.packed_count()?;
        self.bytes(count)
    }

    /// Bytes with a length of `width` bytes before them.
    #[inline]
    pub(super) fn sized(&mut self, width: usize) -> Result<&'a [u8], Fault> {
        let length = self.uint(width)?;
        match usize::try_from(length) {
            Ok(length) => self.bytes(length),
            Err(_) => Err(Fault::Truncated { needed: clamp(length), left: self.left() }),
        }
    }

    /// Bytes up to a zero byte, which is read too.
    pub(super) fn terminated(&mut self) -> Result<&'a [u8], Fault> {
        let end = self.rest.iter().position(|byte| *byte == 0);
        let end = end.ok_or(Fault::Malformed("zero-terminated name"))?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(text)
    }
}

fn clamp(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Up to 8 bytes, the lowest first.
#[inline]
pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Up to 8 bytes, the highest first.
#[inline]
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// UTF-8 that the server promises: names of schemas, tables and columns.
pub(super) fn name(bytes: &[u8]) -> Result<String, Fault> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Fault::InvalidText("UTF-8")),
    }
}

/// One bit of a bitmap whose lowest bit comes first; false beyond its end.
#[inline]
pub(super) fn bit(bitmap: &[u8], at: usize) -> bool {
    bitmap.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}
