//! Which character set a collation belongs to. The numbers are the same in MySQL and MariaDB, as far
//! as both have them (`information_schema.collations` of MariaDB 10.11, 11.8 and MySQL 9.7).

use super::Charset;

/// MariaDB gives its collations that ignore trailing spaces the number of the ordinary one and this.
const MARIADB_NO_PAD: u64 = 1024;

/// MariaDB's UCA 14.0.0 collations: 256 numbers for each character set.
const MARIADB_UCA_1400: u64 = 2048;

/// The character set of a collation.
pub(super) fn charset(collation: u64) -> Option<Charset> {
    let id = match collation {
        MARIADB_UCA_1400.. => {
            return match (collation - MARIADB_UCA_1400) / 256 {
                0 => Some(Charset::Utf8mb3),
                1 => Some(Charset::Utf8mb4),
                2 => Some(Charset::Ucs2),
                3 => Some(Charset::Utf16),
                4 => Some(Charset::Utf32),
                _ => None,
            };
        }
        MARIADB_NO_PAD.. => collation - MARIADB_NO_PAD,
        id => id,
    };
    Some(match id {
        1 | 84 => Charset::Big5,
        2 | 9 | 21 | 27 | 77 => Charset::Latin2,
        3 | 69 => Charset::Dec8,
        4 | 80 => Charset::Cp850,
        5 | 8 | 15 | 31 | 47..=49 | 94 => Charset::Latin1,
        6 | 72 => Charset::Hp8,
        7 | 74 => Charset::Koi8r,
        10 | 82 => Charset::Swe7,
        11 | 65 => Charset::Ascii,
        12 | 91 => Charset::Ujis,
        13 | 88 => Charset::Sjis,
        14 | 23 | 50..=52 => Charset::Cp1251,
        16 | 71 => Charset::Hebrew,
        18 | 89 => Charset::Tis620,
        19 | 85 => Charset::Euckr,
        20 | 41..=42 | 79 => Charset::Latin7,
        22 | 75 => Charset::Koi8u,
        24 | 86 => Charset::Gb2312,
        25 | 70 => Charset::Greek,
        26 | 34 | 44 | 66 | 99 => Charset::Cp1250,
        28 | 87 => Charset::Gbk,
        29 | 58..=59 => Charset::Cp1257,
        30 | 78 => Charset::Latin5,
        32 | 64 => Charset::Armscii8,
        33 | 76 | 83 | 192..=215 | 223 | 576..=579 => Charset::Utf8mb3,
        35 | 90 | 128..=151 | 159 | 640..=642 => Charset::Ucs2,
        36 | 68 => Charset::Cp866,
        37 | 73 => Charset::Keybcs2,
        38 | 43 => Charset::Macce,
        39 | 53 => Charset::Macroman,
        40 | 81 => Charset::Cp852,
        45..=46
        | 224..=247
        | 255..=271
        | 273..=275
        | 277..=294
        | 296..=298
        | 300
        | 303..=323
        | 608..=611 => Charset::Utf8mb4,
        54..=55 | 101..=124 | 672..=674 => Charset::Utf16,
        56 | 62 => Charset::Utf16le,
        57 | 67 => Charset::Cp1256,
        60..=61 | 160..=183 | 736..=738 => Charset::Utf32,
        63 => Charset::Binary,
        92..=93 => Charset::Geostd8,
        95..=96 => Charset::Cp932,
        97..=98 => Charset::Eucjpms,
        248..=250 => Charset::Gb18030,
        _ => return None,
    })
}
