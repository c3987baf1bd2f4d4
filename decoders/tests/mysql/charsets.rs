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
         select ifnull(hex(convert(convert(b using {charset}) using utf8mb4)), 'none') from t.raw order by n",
        values.join(",")
    );
    let rows = server.rows(&sql).unwrap();
    rows.iter()
        .map(|row| {
            let text = String::from_utf8(row[0].clone()).unwrap();
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
            single.chain(double.filter(|text| text[1] != b'?')).collect()
        }
        "ucs2" | "utf16" | "utf16le" | "utf32" | "utf8mb3" | "utf8mb4" => [
            "00e9", "e900", "0041", "4100", "20ac", "d834dd1e", "34d81edd", "0001f600", "c3a9",
            "f09f9880", "e282ac", "41",
        ]
        .iter()
        .map(|hex| {
            (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).unwrap())
                .collect()
        })
        .collect(),
        _ => single.collect(),
    }
}

/// Whatever both give is the same. Where only the server gives something, we refuse, which stops the
/// stream instead of changing a text; how often is bounded here.
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
                // The server prints U+FFFD for some bytes without a character.
                (None, Some(server)) if server != "\u{FFFD}".as_bytes() => refused += 1,
                _ => {}
            }
        }
        if !different.is_empty() || refused > 0 || same == 0 {
            different.truncate(6);
            wrong.push(format!("{name}: {same} same, {refused} refused, {different:x?}"));
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
