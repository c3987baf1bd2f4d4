//! Decompression with a bound: no declared size is believed before the bytes are there.

use std::io::Read;

use bytes::Bytes;

use super::error::Fault;
use super::read::{Reader, big_endian};

/// MariaDB's compressed queries and rows: a byte with algorithm and length of the length, the
/// original length with its highest byte first, and a zlib stream (`log_event.cc`,
/// `binlog_buf_compress`).
pub(super) fn mariadb_event(compressed: &[u8], most: usize) -> Result<Bytes, Fault> {
    let mut reader = Reader::new(compressed);
    let head = reader.u8()?;
    if head & 0x80 == 0 {
        return Err(Fault::Malformed("compression header"));
    }
    match head >> 4 & 0x7 {
        0 => {}
        found => {
            return Err(Fault::Unsupported { what: "compression algorithm", found: found.into() });
        }
    }
    let length = big_endian(reader.bytes((head & 0x7).min(4).into())?);
    let length = within(length, most)?;
    let inflated = exactly(flate2::read::ZlibDecoder::new(reader.rest()), length)?;
    Ok(Bytes::from(inflated))
}

/// A value of a MariaDB COMPRESSED column (`field.cc`, `Field_longstr::compress`): a byte that is 0
/// before plain data, or says algorithm, zlib wrapper and length of the length; the original
/// length, lowest byte first; the data.
pub(super) fn mariadb_column(stored: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
    const ZLIB: u8 = 0x8;
    let mut reader = Reader::new(stored);
    if reader.is_empty() {
        return Ok(Vec::new());
    }
    let head = reader.u8()?;
    if head == 0 {
        return Ok(reader.rest().to_vec());
    }
    if head >> 4 != ZLIB {
        return Err(Fault::Unsupported { what: "column compression", found: (head >> 4).into() });
    }
    let length = within(big_endian(reader.bytes((head & 0x7).into())?), most)?;
    // Bit 3 says that the data has no zlib wrapper.
    match head & 0x8 {
        0 => exactly(flate2::read::ZlibDecoder::new(reader.rest()), length),
        _ => exactly(flate2::read::DeflateDecoder::new(reader.rest()), length),
    }
}

fn within(length: u64, most: usize) -> Result<usize, Fault> {
    match usize::try_from(length) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(Fault::Impossible { what: "uncompressed length", found: length }),
    }
}

/// Reads `length` bytes, after which the source must end.
fn exactly(source: impl Read, length: usize) -> Result<Vec<u8>, Fault> {
    // One byte more than declared: otherwise data that is too long would pass.
    let mut out = Vec::new();
    let read = source.take(length as u64 + 1).read_to_end(&mut out);
    match read {
        Ok(read) if read == length => Ok(out),
        _ => Err(Fault::Damaged("data")),
    }
}
