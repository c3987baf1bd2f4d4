//! Dates and times. Zero dates, and dates without a month or a day, are values like others.

use crate::mysql::error::Fault;
use crate::mysql::read::{big_endian, little_endian};

/// A calendar date, each part possibly 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
#[allow(missing_docs)]
pub struct Date {
    pub year: u16,
    pub month: u8,
    pub day: u8,
}

/// A length of time up to 838:59:59, or a time of day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
pub struct Time {
    pub negative: bool,
    pub hours: u16,
    pub minutes: u8,
    pub seconds: u8,
    pub micros: u32,
    /// Digits behind the point: the column's, 0 to 6.
    pub fraction: u8,
}

/// A date and a time of day, without a time zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
pub struct DateTime {
    pub date: Date,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
    /// Digits behind the point: the column's, 0 to 6.
    pub fraction: u8,
}

/// A moment. Second 0 without a fraction is not one: it stands for the zero date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
pub struct Timestamp {
    /// Since 1970, UTC. MySQL's end in 2038, those of MariaDB 11.5+ in 2106.
    pub seconds: u32,
    pub micros: u32,
    /// Digits behind the point: the column's, 0 to 6.
    pub fraction: u8,
}

pub(in crate::mysql) fn year(stored: u8) -> u16 {
    match stored {
        0 => 0,
        since => 1900 + u16::from(since),
    }
}

pub(in crate::mysql) fn date(stored: [u8; 3]) -> Result<Date, Fault> {
    let raw = little_endian(&stored);
    calendar(raw >> 9, raw >> 5 & 0xF, raw & 0x1F)
}

fn calendar(year: u64, month: u64, day: u64) -> Result<Date, Fault> {
    if year > 9999 || month > 12 || day > 31 {
        return Err(Fault::Malformed("date"));
    }
    Ok(Date { year: year as u16, month: month as u8, day: day as u8 })
}

fn clock(hour: u64, minute: u64, second: u64, hours_end: u64) -> Result<(u16, u8, u8), Fault> {
    if hour >= hours_end || minute > 59 || second > 59 {
        return Err(Fault::Malformed("time"));
    }
    Ok((hour as u16, minute as u8, second as u8))
}

/// How the fraction's bytes count: 1 byte hundredths, 2 ten-thousandths, 3 millionths.
fn micros_per_unit(bytes: usize) -> i64 {
    match bytes {
        1 => 10_000,
        2 => 100,
        _ => 1,
    }
}

fn micros(stored: &[u8]) -> Result<u32, Fault> {
    match big_endian(stored) as i64 * micros_per_unit(stored.len()) {
        micros @ 0..1_000_000 => Ok(micros as u32),
        _ => Err(Fault::Malformed("fraction of a second")),
    }
}

/// TIME: an offset binary number of which the last bytes count parts of a second. A negative time
/// is the negated number *as a whole*, fraction included (`my_time_packed_from_binary`).
pub(in crate::mysql) fn time(stored: &[u8], fraction: u8) -> Result<Time, Fault> {
    let fraction_bytes = usize::from(fraction.div_ceil(2));
    if stored.len() != 3 + fraction_bytes {
        return Err(Fault::Truncated { needed: 3 + fraction_bytes, left: stored.len() });
    }
    let shift = 8 * fraction_bytes as u32;
    let number = big_endian(stored) as i64 - (0x80_0000 << shift);
    let magnitude = number.unsigned_abs();
    let (hms, parts) = (magnitude >> shift, magnitude & ((1 << shift) - 1));
    let micros = parts as i64 * micros_per_unit(fraction_bytes);
    if micros >= 1_000_000 {
        return Err(Fault::Malformed("fraction of a second"));
    }
    let (hours, minutes, seconds) = clock(hms >> 12, hms >> 6 & 0x3F, hms & 0x3F, 839)?;
    let micros = micros as u32;
    Ok(Time { negative: number < 0, hours, minutes, seconds, micros, fraction })
}

pub(in crate::mysql) fn datetime(stored: &[u8], fraction: u8) -> Result<DateTime, Fault> {
    let Some((whole, parts)) = stored.split_at_checked(5) else {
        return Err(Fault::Truncated { needed: 5, left: stored.len() });
    };
    let number = big_endian(whole).checked_sub(0x80_0000_0000);
    let number = number.ok_or(Fault::Malformed("date and time"))?;
    from_packed(number, micros(parts)?, fraction)
}

/// Months in units of 13 to a year, days, hours, minutes and seconds in bit fields.
fn from_packed(number: u64, micros: u32, fraction: u8) -> Result<DateTime, Fault> {
    let (ymd, hms) = (number >> 17, number & 0x1_FFFF);
    let months = ymd >> 5;
    let date = calendar(months / 13, months % 13, ymd & 0x1F)?;
    let (hour, minute, second) = clock(hms >> 12, hms >> 6 & 0x3F, hms & 0x3F, 24)?;
    Ok(DateTime { date, hour: hour as u8, minute, second, micros, fraction })
}

pub(in crate::mysql) fn timestamp(stored: &[u8], fraction: u8) -> Result<Timestamp, Fault> {
    let Some((whole, parts)) = stored.split_at_checked(4) else {
        return Err(Fault::Truncated { needed: 4, left: stored.len() });
    };
    Ok(Timestamp { seconds: big_endian(whole) as u32, micros: micros(parts)?, fraction })
}

/// hhmmss as a decimal number in three bytes, signed.
pub(in crate::mysql) fn old_time(stored: [u8; 3]) -> Result<Time, Fault> {
    let number = (little_endian(&stored) << 40) as i64 >> 40;
    let raw = number.unsigned_abs();
    let (hours, minutes, seconds) = clock(raw / 10_000, raw / 100 % 100, raw % 100, 839)?;
    Ok(Time { negative: number < 0, hours, minutes, seconds, micros: 0, fraction: 0 })
}

/// YYYYMMDDhhmmss as a decimal number.
pub(in crate::mysql) fn old_datetime(stored: [u8; 8]) -> Result<DateTime, Fault> {
    let raw = u64::from_le_bytes(stored);
    let (date, time) = (raw / 1_000_000, raw % 1_000_000);
    let date = calendar(date / 10_000, date / 100 % 100, date % 100)?;
    let (hour, minute, second) = clock(time / 10_000, time / 100 % 100, time % 100, 24)?;
    Ok(DateTime { date, hour: hour as u8, minute, second, micros: 0, fraction: 0 })
}

pub(in crate::mysql) fn old_timestamp(stored: [u8; 4]) -> Timestamp {
    Timestamp { seconds: u32::from_le_bytes(stored), micros: 0, fraction: 0 }
}

/// The form of a DATETIME inside of JSON: microseconds in the lowest 24 bits.
pub(in crate::mysql) fn packed_datetime(packed: i64) -> Result<DateTime, Fault> {
    let packed = u64::try_from(packed).map_err(|_| Fault::Malformed("date and time"))?;
    from_packed(packed >> 24, packed_micros(packed)?, 6)
}

/// The form of a TIME inside of JSON.
pub(in crate::mysql) fn packed_time(packed: i64) -> Result<Time, Fault> {
    let magnitude = packed.unsigned_abs();
    let hms = magnitude >> 24;
    let (hours, minutes, seconds) = clock(hms >> 12, hms >> 6 & 0x3F, hms & 0x3F, 839)?;
    let micros = packed_micros(magnitude)?;
    Ok(Time { negative: packed < 0, hours, minutes, seconds, micros, fraction: 6 })
}

fn packed_micros(packed: u64) -> Result<u32, Fault> {
    match packed & 0xFF_FFFF {
        micros @ 0..1_000_000 => Ok(micros as u32),
        _ => Err(Fault::Malformed("fraction of a second")),
    }
}

/// A number with leading zeros, in `width` digits (or more, if it has them).
#[inline]
pub(in crate::mysql) fn digits(out: &mut Vec<u8>, number: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = number;
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn write_fraction(out: &mut Vec<u8>, micros: u32, fraction: u8) {
    if fraction > 0 {
        out.push(b'.');
        let unit = 10u32.pow(6 - u32::from(fraction.min(6)));
        digits(out, (micros / unit).into(), fraction.min(6).into());
    }
}

fn write_clock(out: &mut Vec<u8>, hours: u16, minutes: u8, seconds: u8) {
    digits(out, hours.into(), if hours > 99 { 3 } else { 2 });
    out.push(b':');
    digits(out, minutes.into(), 2);
    out.push(b':');
    digits(out, seconds.into(), 2);
}

impl Date {
    /// Appends `2024-01-31`.
    pub fn write(&self, out: &mut Vec<u8>) {
        digits(out, self.year.into(), 4);
        out.push(b'-');
        digits(out, self.month.into(), 2);
        out.push(b'-');
        digits(out, self.day.into(), 2);
    }

    /// Whether it is a day of the calendar: year, month and day are there.
    pub fn is_whole(&self) -> bool {
        self.year > 0 && self.month > 0 && self.day > 0
    }
}

impl Time {
    /// Appends `-838:59:59.000000`.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        write_clock(out, self.hours, self.minutes, self.seconds);
        write_fraction(out, self.micros, self.fraction);
    }
}

impl DateTime {
    /// Appends `2024-01-31 23:59:59.000000`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.date.write(out);
        out.push(b' ');
        write_clock(out, self.hour.into(), self.minute, self.second);
        write_fraction(out, self.micros, self.fraction);
    }
}

impl Timestamp {
    /// Whether it stands for the zero date.
    pub fn is_zero(&self) -> bool {
        self.seconds == 0 && self.micros == 0
    }

    /// The calendar's date and the time of day, in UTC.
    pub fn utc(&self) -> DateTime {
        let date = match self.is_zero() {
            true => Date::default(),
            false => civil(self.seconds / 86_400),
        };
        let of_day = self.seconds % 86_400;
        DateTime {
            date,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
            micros: self.micros,
            fraction: self.fraction,
        }
    }

    /// Appends it as a date and time in UTC.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.utc().write(out);
    }
}

/// The date that is `days` after 1970-01-01, for years whose leap days are each fourth year but for
/// 2100: the range of a [`Timestamp`].
fn civil(days: u32) -> Date {
    // Counted from 1968-03-01, so that a leap day is the last of its four years.
    const FROM_MARCH_1968: u32 = 671;
    const LEAP_DAY_2100: u32 = 47_541; // 2100-03-01, counted from 1970
    let skipped = u32::from(days >= LEAP_DAY_2100);
    let days = days + FROM_MARCH_1968 + skipped;
    let (cycle, of_cycle) = (days / 1461, days % 1461);
    let year_of_cycle = (of_cycle / 365).min(3);
    let of_year = of_cycle - year_of_cycle * 365;
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let in_next_year = month_from_march >= 10;
    let year = 1968 + 4 * cycle + year_of_cycle + u32::from(in_next_year);
    let month = if in_next_year { month_from_march - 9 } else { month_from_march + 3 };
    Date { year: year as u16, month: month as u8, day: day as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_up_to_2106_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970u16, 1u8, 1u8);
        for days in 0..=u32::MAX / 86_400 {
            assert_eq!(civil(days), Date { year, month, day }, "day {days}");
            let leap = year % 4 == 0 && year != 2100;
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
