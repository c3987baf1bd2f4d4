//! The variable-length form of newer MySQL events (`mysql::serialization`, 8.3+).

use super::event::Tag;
use crate::mysql::error::Fault;
use crate::mysql::read::{Reader, little_endian};

/// An unsigned number: as many one-bits as bytes follow stand lowest in the first byte.
pub(super) fn unsigned(reader: &mut Reader) -> Result<u64, Fault> {
    let first = reader.u8()?;
    let more = first.trailing_ones() as usize;
    let rest = little_endian(reader.bytes(more)?);
    Ok(match more {
        8 => rest,
        7 => rest, // the first byte has no bit left for the number
        _ => u64::from(first >> (more + 1)) | rest << (7 - more),
    })
}

/// A signed number: the sign stands lowest, and a negative number is counted from -1 down.
pub(super) fn signed(reader: &mut Reader) -> Result<i64, Fault> {
    let raw = unsigned(reader)?;
    let magnitude = (raw >> 1) as i64; // 63 bits
    Ok(if raw & 1 == 0 { magnitude } else { -magnitude - 1 })
}

/// A tag, or none, with its length before it.
pub(super) fn tag(reader: &mut Reader) -> Result<Tag, Fault> {
    let length = unsigned(reader)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= Tag::MOST_BYTES);
    let length = length.ok_or(Fault::Malformed("GTID tag"))?;
    let text = std::str::from_utf8(reader.bytes(length)?);
    text.ok().and_then(Tag::new).ok_or(Fault::Malformed("GTID tag"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What MySQL's encoder writes for a number.
    fn encode(number: u64) -> Vec<u8> {
        let bits = 64 - number.leading_zeros() as usize;
        let more = bits.saturating_sub(1) / 7;
        if more >= 8 {
            return [&[0xFF][..], &number.to_le_bytes()].concat();
        }
        let raw = u128::from(number) << (more + 1) | ((1 << more) - 1);
        raw.to_le_bytes()[..=more].to_vec()
    }

    #[test]
    fn numbers_of_every_length_are_read() {
        for bits in 0..64 {
            for number in [1u64 << bits, (1 << bits) - 1, (1 << bits) | 1, u64::MAX >> bits] {
                let bytes = encode(number);
                let mut reader = Reader::new(&bytes);
                assert_eq!(unsigned(&mut reader), Ok(number), "{bytes:x?}");
                assert!(reader.is_empty());
            }
        }
    }

    #[test]
    fn signs_are_read() {
        for (raw, number) in [(0u64, 0i64), (1, -1), (2, 1), (3, -2), (u64::MAX, i64::MIN)] {
            assert_eq!(signed(&mut Reader::new(&encode(raw))), Ok(number));
        }
    }
}
