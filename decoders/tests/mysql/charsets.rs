//! Every character of every character set, as each server converts it.

use decoders::mysql::charset::Charset;
use tests::mysql::{Mysql, Version};

/// What the server makes of each of `texts`: `None` where it has no character for it.
fn converted(server: &Mysql, charset: &str, texts: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let values: Vec<String> = texts.iter().map(|text| format!("(x'{}')", hex(text))).collect();
    // Through a table: a literal that is not well-formed would be an error. What has no character
    // becomes a question mark, which the text itself does not have.
    let sql = format!(
        "set sql_mode = ''; create temporary table t.raw(n int primary key auto_increment, b varbinary(8));
         insert into t.raw(b) values {};
         select concat('=', ifnull(hex(convert(convert(b using {charset}) using utf8mb4)), '')) from t.raw order by n",
        values.join(",")
    );
    let rows = server.rows(&sql).unwrap();
    rows.iter()
        .map(|row| {
            let text = String::from_utf8(row[0][1..].to_vec()).unwrap();
            let bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..][..2], 16));
            let bytes: Option<Vec<u8>> = bytes.map(Result::ok).collect();
            bytes.filter(|bytes| !bytes.is_empty() && !bytes.contains(&b'?'))
        })
        .collect()
}

/// Of one or two bytes all that are not a question mark.
fn texts(charset: &str) -> Vec<Vec<u8>> {
    let single = (0..=255u8).filter(|byte| *byte != b'?').map(|byte| vec![byte]);
    let double = (0x80..=255u8).flat_map(|lead| (0x30..=255u8).map(move |trail| vec![lead, trail]));
    match charset {
        "big5" | "gb2312" | "gbk" | "gb18030" | "euckr" | "sjis" | "cp932" | "ujis" | "eucjpms" => {
            let triple = double.clone().map(|text| [&[0x8F], &text[..]].concat());
            let triple =
                triple.filter(|text| text[1] > 0xA0 && text[2] > 0xA0 && charset.ends_with("s"));
            let all =
                single.chain(double).chain(triple.filter(|_| charset.starts_with(['u', 'e'])));
            all.filter(|text| text[1..].iter().all(|byte| *byte != b'?')).collect()
        }
        "utf8mb3" | "utf8mb4" => {
            vec![b"a".to_vec(), "\u{e9}".into(), "\u{20ac}".into(), "\u{FFFD}x".into()]
        }
        "ucs2" | "utf16" | "utf16le" => vec![vec![0, b'a'], vec![0x20, 0xAC], vec![0xE9, 0]],
        "utf32" => vec![vec![0, 0, 0, b'a'], vec![0, 1, 0xF6, 0], vec![0, 0, 0x20, 0xAC]],
        _ => single.collect(),
    }
}

/// Whatever both give is the same. Where only the server gives something, we refuse, which stops the
/// stream instead of changing a text; that may be so for very few.
fn agree(version: Version) {
    let server = Mysql::start(version, &[]).unwrap();
    server.run("create database t").unwrap();
    let names = server.rows("select character_set_name from information_schema.character_sets");
    let names = names.unwrap();
    assert!(names.len() >= 40);
    let mut wrong = Vec::new();
    for name in names {
        let name = String::from_utf8(name[0].clone()).unwrap();
        let charset = Charset::by_name(&name).unwrap_or_else(|| panic!("{name} is not known"));
        if charset == Charset::Binary {
            continue;
        }
        let texts = texts(&name);
        let (mut different, mut refused, mut same) = (Vec::new(), 0, 0);
        for (text, server) in texts.iter().zip(converted(&server, &name, &texts)) {
            let ours = charset.decode(text).ok().map(|text| text.into_owned().into_bytes());
            match (ours, server) {
                (Some(ours), Some(server)) if ours == server => same += 1,
                (Some(ours), Some(server)) => different.push((text.clone(), ours, server)),
                // The server prints U+FFFD for some bytes without a character, and cuts a text off
                // where it is not well-formed.
                (None, Some(server)) => {
                    let first = charset.decode(&text[..1]);
                    let cut = first.is_ok_and(|first| first.as_bytes() == server);
                    let nothing = server == "\u{FFFD}".as_bytes();
                    refused += usize::from(!cut && !nothing);
                }
                _ => {}
            }
        }
        // IBM's extensions in rows 83 and 84 behind 0x8F, which the encodings of the web lack.
        let allowed = if charset == Charset::Eucjpms { 106 } else { 0 };
        if !different.is_empty() || refused > allowed || same == 0 {
            let count = different.len();
            different.truncate(6);
            wrong.push(format!("{name}: {same} same, {refused} refused, {count} {different:x?}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", version.name());
}

#[test]
fn of_mariadb_10_11() {
    agree(Version::Mariadb10_11);
}

#[test]
fn of_mariadb_11_8() {
    agree(Version::Mariadb11_8);
}

#[test]
fn of_mysql_9_7() {
    agree(Version::Mysql9_7);
}
