//! A key's value as text.

use decoders::change::{Column, Value};
use decoders::mysql::SourceType;

/// OIDs of the types whose binary form is read here (`pg_type.dat`): those that keys are made of.
const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const OID: u32 = 26;
const TEXTS: [u32; 4] = [19, 25, 1042, 1043];
const UUID: u32 = 2950;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
/// From the Unix epoch to PostgreSQL's, 2000-01-01, in days.
const EPOCH_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;

/// A value's text; `None` for NULL and for what is not understood. Bytes of MySQL and MariaDB as `0x` and
/// digits.
pub(super) fn text(column: &Column, value: Value<'_>) -> Option<String> {
    let bytes = match value {
        Value::Null => return None,
        Value::Text(bytes) => return std::str::from_utf8(bytes).ok().map(str::to_owned),
        Value::Binary(bytes) => bytes,
    };
    if SourceType::of(column).is_some() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        return Some(format!("0x{hex}"));
    }
    Some(match column.type_oid {
        BOOL => if *bytes.first()? == 0 { "f" } else { "t" }.to_owned(),
        INT2 => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT4 => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT8 => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        OID => u32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        UUID => uuid::Uuid::from_slice(bytes).ok()?.to_string(),
        DATE => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            let at = moment((i64::from(days)).checked_mul(DAY_US)?)?;
            at.strftime("%Y-%m-%d").to_string()
        }
        TIMESTAMP => {
            let at = moment(i64::from_be_bytes(bytes.try_into().ok()?))?;
            at.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
        }
        TIMESTAMPTZ => {
            let at = moment(i64::from_be_bytes(bytes.try_into().ok()?))?;
            at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
        }
        oid if TEXTS.contains(&oid) => std::str::from_utf8(bytes).ok()?.to_owned(),
        _ => return None,
    })
}

/// A time by its microseconds since PostgreSQL's epoch; `None` for infinity and for years that are not
/// written with four digits.
fn moment(since_epoch_us: i64) -> Option<jiff::civil::DateTime> {
    let us = since_epoch_us.checked_add(EPOCH_DAYS * DAY_US)?;
    let at = jiff::Timestamp::from_microsecond(us).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
    Some(at.datetime()).filter(|at| (1..=9999).contains(&at.year()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(type_oid: u32, value: Value<'_>) -> Option<String> {
        super::text(&Column { name: "k".into(), type_oid, type_modifier: -1, in_key: true }, value)
    }

    #[test]
    fn bytes_of_mysql_are_shown() {
        // BINARY, BIT.
        for type_oid in [0xF000_0000 + 15, 0xF000_0000 + 10] {
            assert_eq!(text(type_oid, Value::Binary(b"\x00\xff")).as_deref(), Some("0x00FF"));
        }
        assert_eq!(text(0xF000_0000 + 14, Value::Text(b"0x00")).as_deref(), Some("0x00"));
    }

    #[test]
    fn binary_keys_are_read() {
        assert_eq!(text(INT4, Value::Binary(&7_i32.to_be_bytes())).as_deref(), Some("7"));
        assert_eq!(text(INT8, Value::Binary(&(-7_i64).to_be_bytes())).as_deref(), Some("-7"));
        assert_eq!(text(INT4, Value::Binary(&[1])), None);
        assert_eq!(text(25, Value::Binary(b"a b")).as_deref(), Some("a b"));
        let at = |oid, value: i64| text(oid, Value::Binary(&value.to_be_bytes()));
        assert_eq!(at(TIMESTAMPTZ, 1_500_000).unwrap(), "2000-01-01 00:00:01.500000+00");
        assert_eq!(at(TIMESTAMP, -1).unwrap(), "1999-12-31 23:59:59.999999");
        assert_eq!((at(TIMESTAMP, i64::MAX), at(TIMESTAMPTZ, i64::MIN)), (None, None));
        assert_eq!(text(DATE, Value::Binary(&366_i32.to_be_bytes())).unwrap(), "2001-01-01");
    }
}
