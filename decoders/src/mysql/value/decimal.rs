//! DECIMAL: up to 65 digits, exact.

use super::number;
use crate::mysql::error::Fault;
use crate::mysql::read::big_endian;

/// Bytes of 0 to 9 digits (`decimal.c`, `dig2bytes`).
const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Bytes of a DECIMAL: groups of nine digits in four bytes, counted from the point both ways, the
/// outer ones shorter.
pub(in crate::mysql) const fn stored_bytes(precision: u8, scale: u8) -> usize {
    let (whole, fraction) = (precision.saturating_sub(scale) as usize, scale as usize);
    whole / 9 * 4 + BYTES[whole % 9] + fraction / 9 * 4 + BYTES[fraction % 9]
}

/// An exact decimal number in the server's storage form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decimal<'a> {
    stored: &'a [u8],
    precision: u8,
    scale: u8,
}

impl<'a> Decimal<'a> {
    /// A stored DECIMAL(precision, scale). Fails if a group has more digits than its width.
    pub(in crate::mysql) fn read(
        stored: &'a [u8],
        precision: u8,
        scale: u8,
    ) -> Result<Decimal<'a>, Fault> {
        let needed = stored_bytes(precision, scale);
        if stored.len() != needed || scale > precision || precision == 0 {
            return Err(Fault::Truncated { needed, left: stored.len() });
        }
        let decimal = Decimal { stored, precision, scale };
        for (group, digits) in decimal.groups() {
            if group >= 10u64.pow(digits) {
                return Err(Fault::Impossible { what: "digits of DECIMAL", found: group });
            }
        }
        Ok(decimal)
    }

    /// Digits behind the point.
    pub fn scale(&self) -> u8 {
        self.scale
    }

    /// Digits in all.
    pub fn precision(&self) -> u8 {
        self.precision
    }

    /// Whether it is below zero. The highest bit is set in others, so that bytes sort as numbers.
    pub fn is_negative(&self) -> bool {
        self.stored.first().is_some_and(|byte| byte & 0x80 == 0)
    }

    /// Numbers of up to nine digits from the highest on, each with its count of digits.
    fn groups(self) -> impl Iterator<Item = (u64, u32)> + 'a {
        let (whole, fraction) = (self.precision - self.scale, self.scale);
        let head = (whole % 9 > 0).then_some(whole % 9);
        let tail = (fraction % 9 > 0).then_some(fraction % 9);
        let full = std::iter::repeat_n(9, (whole / 9 + fraction / 9).into());
        let widths = head.into_iter().chain(full).chain(tail);
        // A negative number has all its bits flipped.
        let flip = if self.is_negative() { 0xFF } else { 0 };
        let mut rest = self.stored;
        let mut first = true;
        widths.map(move |digits: u8| {
            let (own, others) = rest.split_at(BYTES[usize::from(digits)].min(rest.len()));
            rest = others;
            let mut bytes = [0u8; 4];
            for (to, from) in bytes.iter_mut().zip(own) {
                *to = from ^ flip;
            }
            if std::mem::take(&mut first) {
                bytes[0] ^= 0x80;
            }
            (big_endian(&bytes[..own.len()]), digits.into())
        })
    }

    /// Appends it as `-123.450`: all digits behind the point, none superfluous before it.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.is_negative() {
            out.push(b'-');
        }
        let whole_groups = usize::from((self.precision - self.scale).div_ceil(9));
        let mut started = false;
        for (at, (group, digits)) in self.groups().enumerate() {
            if at == whole_groups {
                if !started {
                    out.push(b'0');
                }
                out.push(b'.');
                started = true;
            }
            match started {
                true => super::temporal::digits(out, group, digits as usize),
                false if group > 0 => {
                    number::decimal(out, group, false);
                    started = true;
                }
                false => {}
            }
        }
        if !started {
            out.push(b'0');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_digits_are_refused() {
        // DECIMAL(2,0): 100 does not fit two digits.
        assert!(Decimal::read(&[0x80 | 100], 2, 0).is_err());
        assert!(Decimal::read(&[0x80 | 99], 2, 0).is_ok());
        assert!(Decimal::read(&[], 2, 0).is_err());
        assert!(Decimal::read(&[0x80], 1, 2).is_err());
    }

    #[test]
    fn zero_has_a_digit_before_the_point() {
        let text = |stored: &[u8], precision, scale| {
            let mut out = Vec::new();
            Decimal::read(stored, precision, scale).unwrap().write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&[0x80], 1, 0), "0");
        assert_eq!(text(&[0x80, 0x00], 3, 2), "0.00");
        assert_eq!(text(&[0x81], 1, 1), "0.1");
        assert_eq!(text(&[!0x81], 1, 1), "-0.1");
    }
}
