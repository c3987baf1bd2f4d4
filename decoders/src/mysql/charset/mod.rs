//! Character sets of MySQL and MariaDB, to UTF-8.

use std::borrow::Cow;
use std::sync::LazyLock;

use encoding_rs::Encoding;

use super::error::Fault;

mod collation;
mod double_byte;
mod single_byte;

/// A character set of the servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // each is the character set of that name
pub enum Charset {
    Binary,
    Ascii,
    Utf8mb3,
    Utf8mb4,
    Ucs2,
    Utf16,
    Utf16le,
    Utf32,
    Latin1,
    Latin2,
    Latin5,
    Latin7,
    Armscii8,
    Cp1250,
    Cp1251,
    Cp1256,
    Cp1257,
    Cp850,
    Cp852,
    Cp866,
    Dec8,
    Geostd8,
    Greek,
    Hebrew,
    Hp8,
    Keybcs2,
    Koi8r,
    Koi8u,
    Macce,
    Macroman,
    Swe7,
    Tis620,
    Big5,
    Gb2312,
    Gbk,
    Gb18030,
    Euckr,
    Sjis,
    Cp932,
    Ujis,
    Eucjpms,
}

/// All of them.
const ALL: [Charset; 41] = {
    use Charset::*;
    [
        Binary, Ascii, Utf8mb3, Utf8mb4, Ucs2, Utf16, Utf16le, Utf32, Latin1, Latin2, Latin5,
        Latin7, Armscii8, Cp1250, Cp1251, Cp1256, Cp1257, Cp850, Cp852, Cp866, Dec8, Geostd8,
        Greek, Hebrew, Hp8, Keybcs2, Koi8r, Koi8u, Macce, Macroman, Swe7, Tis620, Big5, Gb2312,
        Gbk, Gb18030, Euckr, Sjis, Cp932, Ujis, Eucjpms,
    ]
};

impl Charset {
    /// The character set of a collation's id.
    pub fn of_collation(id: u64) -> Result<Charset, Fault> {
        collation::charset(id).ok_or(Fault::Unsupported { what: "collation", found: id })
    }

    /// By the servers' name, in lower case: `utf8mb4`. `utf8` is `utf8mb3`.
    pub fn by_name(name: &str) -> Option<Charset> {
        let name = if name == "utf8" { "utf8mb3" } else { name };
        ALL.into_iter().find(|charset| charset.name() == name)
    }

    /// Bytes of its longest character: what the length of a column is counted in.
    pub fn most_bytes(self) -> u16 {
        use Charset::*;
        match self {
            Utf8mb4 | Utf16 | Utf16le | Utf32 | Gb18030 => 4,
            Utf8mb3 | Ujis | Eucjpms => 3,
            Ucs2 | Big5 | Gb2312 | Gbk | Euckr | Sjis | Cp932 => 2,
            _ => 1,
        }
    }

    /// The servers' name.
    pub fn name(self) -> &'static str {
        match self {
            Charset::Binary => "binary",
            Charset::Ascii => "ascii",
            Charset::Utf8mb3 => "utf8mb3",
            Charset::Utf8mb4 => "utf8mb4",
            Charset::Ucs2 => "ucs2",
            Charset::Utf16 => "utf16",
            Charset::Utf16le => "utf16le",
            Charset::Utf32 => "utf32",
            Charset::Latin1 => "latin1",
            Charset::Latin2 => "latin2",
            Charset::Latin5 => "latin5",
            Charset::Latin7 => "latin7",
            Charset::Armscii8 => "armscii8",
            Charset::Cp1250 => "cp1250",
            Charset::Cp1251 => "cp1251",
            Charset::Cp1256 => "cp1256",
            Charset::Cp1257 => "cp1257",
            Charset::Cp850 => "cp850",
            Charset::Cp852 => "cp852",
            Charset::Cp866 => "cp866",
            Charset::Dec8 => "dec8",
            Charset::Geostd8 => "geostd8",
            Charset::Greek => "greek",
            Charset::Hebrew => "hebrew",
            Charset::Hp8 => "hp8",
            Charset::Keybcs2 => "keybcs2",
            Charset::Koi8r => "koi8r",
            Charset::Koi8u => "koi8u",
            Charset::Macce => "macce",
            Charset::Macroman => "macroman",
            Charset::Swe7 => "swe7",
            Charset::Tis620 => "tis620",
            Charset::Big5 => "big5",
            Charset::Gb2312 => "gb2312",
            Charset::Gbk => "gbk",
            Charset::Gb18030 => "gb18030",
            Charset::Euckr => "euckr",
            Charset::Sjis => "sjis",
            Charset::Cp932 => "cp932",
            Charset::Ujis => "ujis",
            Charset::Eucjpms => "eucjpms",
        }
    }

    /// Text as UTF-8. Fails where a byte stands for no character: nothing is replaced.
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
        match self.as_utf8(bytes) {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => self.convert(bytes),
        }
    }

    /// Text of which the bytes are the same in UTF-8, which nearly all is.
    #[inline]
    pub(super) fn as_utf8(self, bytes: &[u8]) -> Option<&str> {
        let is_same = self.is_utf8() || (self.extends_ascii() && is_ascii(bytes));
        if is_same { std::str::from_utf8(bytes).ok() } else { None }
    }

    fn convert(self, bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
        let invalid = || Fault::InvalidText(self.name());
        let decoded = match self {
            Charset::Utf8mb3 | Charset::Utf8mb4 | Charset::Binary | Charset::Ascii => None,
            Charset::Ucs2 => ucs2(bytes),
            Charset::Utf16 => utf16(bytes, u16::from_be_bytes),
            Charset::Utf16le => utf16(bytes, u16::from_le_bytes),
            Charset::Utf32 => utf32(bytes),
            Charset::Swe7 => swe7(bytes),
            single if single.upper_half().is_some() => {
                single.table().and_then(|table| by_table(bytes, table))
            }
            double => double.by_characters(bytes),
        };
        decoded.ok_or_else(invalid)
    }

    #[inline]
    fn is_utf8(self) -> bool {
        matches!(self, Charset::Utf8mb3 | Charset::Utf8mb4 | Charset::Binary)
    }

    /// Whether the bytes below 0x80 are ASCII.
    #[inline]
    fn extends_ascii(self) -> bool {
        use Charset::*;
        !matches!(self, Ucs2 | Utf16 | Utf16le | Utf32 | Swe7)
    }

    fn upper_half(self) -> Option<&'static str> {
        use single_byte as table;
        Some(match self {
            Charset::Latin1 => table::LATIN1,
            Charset::Latin2 => table::LATIN2,
            Charset::Latin5 => table::LATIN5,
            Charset::Latin7 => table::LATIN7,
            Charset::Armscii8 => table::ARMSCII8,
            Charset::Cp1250 => table::CP1250,
            Charset::Cp1251 => table::CP1251,
            Charset::Cp1256 => table::CP1256,
            Charset::Cp1257 => table::CP1257,
            Charset::Cp850 => table::CP850,
            Charset::Cp852 => table::CP852,
            Charset::Cp866 => table::CP866,
            Charset::Dec8 => table::DEC8,
            Charset::Geostd8 => table::GEOSTD8,
            Charset::Greek => table::GREEK,
            Charset::Hebrew => table::HEBREW,
            Charset::Hp8 => table::HP8,
            Charset::Keybcs2 => table::KEYBCS2,
            Charset::Koi8r => table::KOI8R,
            Charset::Koi8u => table::KOI8U,
            Charset::Macce => table::MACCE,
            Charset::Macroman => table::MACROMAN,
            Charset::Tis620 => table::TIS620,
            _ => return None,
        })
    }

    fn table(self) -> Option<&'static [char]> {
        static TABLES: LazyLock<Vec<Vec<char>>> = LazyLock::new(|| {
            let half =
                |charset: Charset| charset.upper_half().unwrap_or_default().chars().collect();
            ALL.into_iter().map(half).collect()
        });
        TABLES.get(self as usize).map(Vec::as_slice)
    }

    fn multi_byte(self) -> Option<&'static Encoding> {
        Some(match self {
            Charset::Big5 => encoding_rs::BIG5,
            Charset::Gb2312 | Charset::Gbk => encoding_rs::GBK,
            Charset::Gb18030 => encoding_rs::GB18030,
            Charset::Euckr => encoding_rs::EUC_KR,
            Charset::Sjis | Charset::Cp932 => encoding_rs::SHIFT_JIS,
            Charset::Ujis | Charset::Eucjpms => encoding_rs::EUC_JP,
            _ => return None,
        })
    }
}

impl Charset {
    /// A character set in which a byte from 0x80 on begins a character of several.
    fn by_characters(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        let mut text = String::with_capacity(bytes.len() * 2);
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            if first.is_ascii() {
                text.push(char::from(*first));
                rest = &rest[1..];
                continue;
            }
            let character;
            (character, rest) = rest.split_at_checked(self.character_bytes(rest))?;
            match self.own_character(character) {
                Some(char::REPLACEMENT_CHARACTER) => return None,
                Some(own) => text.push(own),
                None => {
                    let encoding = self.multi_byte()?;
                    text += &*encoding
                        .decode_without_bom_handling_and_without_replacement(character)?;
                }
            }
        }
        Some(Cow::Owned(text))
    }

    /// How many bytes the character at the start of `bytes` has, whose first is not ASCII.
    fn character_bytes(self, bytes: &[u8]) -> usize {
        match (self, bytes) {
            (Charset::Sjis | Charset::Cp932, [0xA1..=0xDF, ..]) => 1, // half-width katakana
            (Charset::Ujis | Charset::Eucjpms, [0x8F, ..]) => 3,
            (Charset::Gb18030, [_, b'0'..=b'9', ..]) => 4,
            _ => 2,
        }
    }

    /// The servers' character where it is another one than that of the web.
    fn own_character(self, character: &[u8]) -> Option<char> {
        let exceptions = match self {
            Charset::Big5 => double_byte::BIG5,
            Charset::Gb2312 => double_byte::GB2312,
            Charset::Gb18030 => double_byte::GB18030,
            Charset::Sjis => double_byte::SJIS,
            Charset::Ujis => double_byte::UJIS,
            _ => &[],
        };
        // Rows for characters of one's own go to the private use area, those behind 0x8F second.
        let of_ones_own = |base: u32, row: u8, cell: u8| {
            let at = u32::from(row - 0xF5) * 94 + u32::from(cell.checked_sub(0xA1)?);
            char::from_u32(base + at)
        };
        match (self, character) {
            (Charset::Ujis | Charset::Eucjpms, [row @ 0xF5..=0xFE, cell @ ..=0xFE]) => {
                of_ones_own(0xE000, *row, *cell)
            }
            (Charset::Ujis | Charset::Eucjpms, [0x8F, row @ 0xF5..=0xFE, cell @ ..=0xFE]) => {
                of_ones_own(0xE3AC, *row, *cell)
            }
            (Charset::Ujis, [0x8F, 0xA2, 0xB7]) => Some('~'),
            (Charset::Eucjpms, [0x8F, 0xA2, 0xC3]) => Some('￤'),
            (_, [lead, trail]) => {
                let number = u16::from_be_bytes([*lead, *trail]);
                let at = exceptions.binary_search_by_key(&number, |(number, _)| *number).ok()?;
                Some(exceptions[at].1)
            }
            _ => None,
        }
    }
}

/// Eight bytes at a time; `<[u8]>::is_ascii` was seen to look at one after the other where it is inlined.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word));
    let rest = rest.iter().fold(0, |all, byte| all | byte);
    words & 0x8080_8080_8080_8080 == 0 && rest < 0x80
}

/// A character set whose lower half is ASCII.
fn by_table<'a>(bytes: &'a [u8], upper: &[char]) -> Option<Cow<'a, str>> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(match byte.checked_sub(0x80) {
            None => char::from(*byte),
            Some(at) => {
                *upper.get(usize::from(at)).filter(|c| **c != char::REPLACEMENT_CHARACTER)?
            }
        });
    }
    Some(Cow::Owned(text))
}

/// Swedish ASCII: letters in the place of brackets.
fn swe7(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let letter = |byte: &u8| {
        Some(match byte {
            0x40 => 'É',
            0x5B => 'Ä',
            0x5C => 'Ö',
            0x5D => 'Å',
            0x5E => 'Ü',
            0x60 => 'é',
            0x7B => 'ä',
            0x7C => 'ö',
            0x7D => 'å',
            0x7E => 'ü',
            0x7F.. => return None,
            other => char::from(*other),
        })
    };
    bytes.iter().map(letter).collect::<Option<String>>().map(Cow::Owned)
}

/// Like UTF-16, but surrogates stand for nothing.
fn ucs2(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    let text = units.iter().map(|bytes| char::from_u32(u16::from_be_bytes(*bytes).into()));
    text.collect::<Option<String>>().map(Cow::Owned)
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Option<Cow<'_, str>> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    let text = char::decode_utf16(units.iter().map(|bytes| unit(*bytes)));
    text.collect::<Result<String, _>>().ok().map(Cow::Owned)
}

fn utf32(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let (units, []) = bytes.as_chunks::<4>() else { return None };
    let text = units.iter().map(|bytes| char::from_u32(u32::from_be_bytes(*bytes)));
    text.collect::<Option<String>>().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_one_is_at_its_place_and_has_a_whole_table() {
        for (at, charset) in ALL.into_iter().enumerate() {
            assert_eq!(charset as usize, at);
            assert_eq!(Charset::by_name(charset.name()), Some(charset));
            if let Some(half) = charset.upper_half() {
                assert_eq!(half.chars().count(), 128, "{}", charset.name());
            }
        }
    }
}
