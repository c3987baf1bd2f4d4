//! Any bytes from a client or a server, as `cutover/fuzz` and random tests give them: each parser reads
//! them or refuses, and what it has read is what it writes.

pub use super::mysql::fuzz::{hello, turns as mysql_turns, words};
pub use super::postgres::fuzz::{startup, turns};

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes among which those with a meaning are frequent.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => any::<u8>().prop_map(|byte| vec![byte]),
            2 => Just(vec![0]),
            1 => Just(vec![0, 0, 0]),
            2 => prop::sample::select(&b"QPBDESHFCcdfXZWGETINKRA"[..]).prop_map(|tag| vec![tag]),
            1 => (4_u32..40).prop_map(|length| length.to_be_bytes().to_vec()),
            1 => (1_u32..40).prop_map(|length| length.to_le_bytes().to_vec()),
            1 => Just(b"\0\x03\0\0user\0me\0database\0shop\0".to_vec()),
            1 => prop::sample::select(&["set ", "@", "'", "\"", "`", "/*", "*/", "--", "#", ";", "\\",
                "get_lock(", "found_rows()", "set_config(", "transaction ", "app.x", "e'", "begin"][..])
                .prop_map(|word| word.as_bytes().to_vec()),
        ];
        vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn any_bytes_are_read_or_refused(bytes in bytes()) {
            startup(&bytes);
            turns(&bytes);
            hello(&bytes);
            mysql_turns(&bytes);
            words(&bytes);
        }
    }

    /// A greeting and an answer to it, cut off and changed at every place.
    #[test]
    fn what_is_nearly_right_is_read_or_refused() {
        let greeting = b"\x0a11.8.3-MariaDB\0\x07\0\0\0abcdefgh\0\xff\xf7\x2d\x02\0\xff\xff\x15\
                         \0\0\0\0\0\0\x1d\0\0\0ijklmnopqrst\0mysql_native_password\0";
        let answer = [
            &[0x8d, 0xa2, 0x3b, 0][..],
            &[0; 28],
            b"app\0\x03xyzshop\0caching_sha2_password\0\x04\x01a\x01b",
        ]
        .concat();
        let startup_packet = b"\0\x03\0\0user\0me\0database\0shop\0options\0-c a=b\0\0";
        for whole in [&greeting[..], &answer, startup_packet] {
            for end in 0..=whole.len() {
                startup(&whole[..end]);
                hello(&whole[..end]);
                for change in [0, 0xfb, 0xfe, 0xff] {
                    let mut changed = whole.to_vec();
                    if let Some(byte) = changed.get_mut(end) {
                        *byte = change;
                    }
                    startup(&changed);
                    hello(&changed);
                }
            }
        }
    }
}
