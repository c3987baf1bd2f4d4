//! The storage form (`json_binary.h`): a type byte, then the value; arrays and objects have their
//! offsets in front.

use super::{Json, MOST_DEPTH};
use crate::mysql::error::Fault;
use crate::mysql::read::{Reader, little_endian};
use crate::mysql::value::{Decimal, temporal};

const SMALL_OBJECT: u8 = 0x0;
const LARGE_OBJECT: u8 = 0x1;
const SMALL_ARRAY: u8 = 0x2;
const LARGE_ARRAY: u8 = 0x3;
const LITERAL: u8 = 0x4;
const INT16: u8 = 0x5;
const UINT16: u8 = 0x6;
const INT32: u8 = 0x7;
const UINT32: u8 = 0x8;
const INT64: u8 = 0x9;
const UINT64: u8 = 0xA;
const DOUBLE: u8 = 0xB;
const STRING: u8 = 0xC;
const OPAQUE: u8 = 0xF;

/// Reads a stored value.
pub(in crate::mysql) fn read(stored: &[u8]) -> Result<Json, Fault> {
    let mut reader = Reader::new(stored);
    // A row that an older server inserted with IGNORE may hold nothing at all.
    if reader.is_empty() {
        return Ok(Json::Null);
    }
    let kind = reader.u8()?;
    // Offsets of damaged data may point at one value many times over: all that is read together
    // must not be more than what was sent.
    let mut budget = Budget { left: stored.len().saturating_mul(2).saturating_add(16) };
    value(kind, reader.rest(), 0, &mut budget)
}

struct Budget {
    left: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::Malformed("JSON"))?;
        Ok(())
    }
}

/// A value whose bytes begin `data`; more may follow.
fn value(kind: u8, data: &[u8], depth: usize, budget: &mut Budget) -> Result<Json, Fault> {
    budget.take(1)?;
    let mut reader = Reader::new(data);
    Ok(match kind {
        SMALL_OBJECT => object(data, 2, depth, budget)?,
        LARGE_OBJECT => object(data, 4, depth, budget)?,
        SMALL_ARRAY => array(data, 2, depth, budget)?,
        LARGE_ARRAY => array(data, 4, depth, budget)?,
        LITERAL => literal(reader.u8()?)?,
        INT16 => Json::Signed(i16::from_le_bytes(reader.array()?).into()),
        UINT16 => Json::Unsigned(reader.u16()?.into()),
        INT32 => Json::Signed(i32::from_le_bytes(reader.array()?).into()),
        UINT32 => Json::Unsigned(reader.u32()?.into()),
        INT64 => Json::Signed(i64::from_le_bytes(reader.array()?)),
        UINT64 => Json::Unsigned(reader.u64()?),
        DOUBLE => Json::Double(f64::from_le_bytes(reader.array()?)),
        STRING => Json::String(text(sized(&mut reader, budget)?)?),
        OPAQUE => {
            let field_type = reader.u8()?;
            opaque(field_type, sized(&mut reader, budget)?)?
        }
        found => return Err(Fault::Unsupported { what: "JSON type", found: found.into() }),
    })
}

fn literal(code: u8) -> Result<Json, Fault> {
    match code {
        0 => Ok(Json::Null),
        1 => Ok(Json::Bool(true)),
        2 => Ok(Json::Bool(false)),
        found => Err(Fault::Impossible { what: "JSON literal", found: found.into() }),
    }
}

fn text(bytes: &[u8]) -> Result<String, Fault> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Fault::InvalidText("UTF-8")),
    }
}

/// Bytes with their length before them: seven bits a byte, the lowest first.
fn sized<'a>(reader: &mut Reader<'a>, budget: &mut Budget) -> Result<&'a [u8], Fault> {
    let mut length = 0usize;
    for at in 0..5 {
        let byte = reader.u8()?;
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let bytes = reader.bytes(length)?;
            budget.take(length)?;
            return Ok(bytes);
        }
    }
    Err(Fault::Malformed("length in JSON"))
}

/// A value of an SQL type that JSON does not have.
fn opaque(field_type: u8, data: &[u8]) -> Result<Json, Fault> {
    const TIMESTAMP: u8 = 7;
    const DATE: u8 = 10;
    const TIME: u8 = 11;
    const DATETIME: u8 = 12;
    const DECIMAL: u8 = 246;
    let mut out = Vec::new();
    let packed = || match <[u8; 8]>::try_from(data) {
        Ok(bytes) => Ok(i64::from_le_bytes(bytes)),
        Err(_) => Err(Fault::Malformed("date or time in JSON")),
    };
    match field_type {
        DECIMAL => {
            let [precision, scale, stored @ ..] = data else {
                return Err(Fault::Malformed("decimal in JSON"));
            };
            Decimal::read(stored, *precision, *scale)?.write(&mut out);
            return Ok(Json::Decimal(text(&out)?));
        }
        DATE => temporal::packed_datetime(packed()?)?.date.write(&mut out),
        DATETIME | TIMESTAMP => temporal::packed_datetime(packed()?)?.write(&mut out),
        TIME => temporal::packed_time(packed()?)?.write(&mut out),
        other => return Ok(Json::Opaque(other, data.to_vec())),
    }
    Ok(Json::Temporal(text(&out)?))
}

/// The head of an array or an object: count and size, in `width` bytes each.
struct Composite<'a> {
    /// Everything from the head on: offsets count from here.
    whole: &'a [u8],
    count: usize,
    width: usize,
    reader: Reader<'a>,
}

impl<'a> Composite<'a> {
    fn begin(
        data: &'a [u8],
        width: usize,
        entry_bytes: usize,
        depth: usize,
    ) -> Result<Composite<'a>, Fault> {
        if depth >= MOST_DEPTH {
            return Err(Fault::Malformed("nesting of JSON"));
        }
        let mut reader = Reader::new(data);
        let count = reader.uint(width)? as usize;
        let size = reader.uint(width)? as usize;
        let whole = data.get(..size).ok_or(Fault::Truncated { needed: size, left: data.len() })?;
        let mut reader = Reader::new(whole);
        reader.bytes(2 * width)?;
        let needed = count.saturating_mul(entry_bytes);
        if needed > reader.left() {
            return Err(Fault::Truncated { needed, left: reader.left() });
        }
        Ok(Composite { whole, count, width, reader })
    }

    /// The value of the next entry: in the entry itself if it is small.
    fn entry(&mut self, depth: usize, budget: &mut Budget) -> Result<Json, Fault> {
        let kind = self.reader.u8()?;
        let field = self.reader.bytes(self.width)?;
        let inlined = match kind {
            LITERAL | INT16 | UINT16 => true,
            INT32 | UINT32 => self.width == 4,
            _ => false,
        };
        if inlined {
            return value(kind, field, depth + 1, budget);
        }
        let offset = little_endian(field) as usize;
        let data = self.whole.get(offset..).ok_or(Fault::Malformed("offset in JSON"))?;
        value(kind, data, depth + 1, budget)
    }
}

fn array(data: &[u8], width: usize, depth: usize, budget: &mut Budget) -> Result<Json, Fault> {
    let mut composite = Composite::begin(data, width, 1 + width, depth)?;
    let mut items = Vec::new();
    for _ in 0..composite.count {
        items.push(composite.entry(depth, budget)?);
    }
    Ok(Json::Array(items))
}

fn object(data: &[u8], width: usize, depth: usize, budget: &mut Budget) -> Result<Json, Fault> {
    let mut composite = Composite::begin(data, width, width + 2 + 1 + width, depth)?;
    let mut keys = Vec::new();
    for _ in 0..composite.count {
        let offset = composite.reader.uint(width)? as usize;
        let length = usize::from(composite.reader.u16()?);
        let key = offset.checked_add(length).and_then(|end| composite.whole.get(offset..end));
        budget.take(length)?;
        keys.push(text(key.ok_or(Fault::Malformed("key in JSON"))?)?);
    }
    let mut members = Vec::new();
    for key in keys {
        members.push((key, composite.entry(depth, budget)?));
    }
    Ok(Json::Object(members))
}
