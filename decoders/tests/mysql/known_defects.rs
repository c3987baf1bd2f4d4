//! What the decoder in common use for Rust gets wrong (`mysql_common` 0.37.3), each a test by name.

use bytes::Bytes;
use decoders::mysql::{Body, Cell, Decoder, EventType, Fault, Flavor, Layout, Limits, Value};

use super::binlog;
use super::frame::{parts, with_checksum, without_checksum};
use super::golden::{self, NAMES, column};

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

/// A decoder that has read the format description of a recorded binlog.
fn decoder(name: &str) -> Decoder {
    let mut decoder = Decoder::new(Limits::default());
    decoder.decode(&binlog::frames(&golden::load(name))[0]).unwrap();
    decoder
}

#[test]
fn signed_mediumint_keeps_its_sign() {
    for name in NAMES {
        assert_eq!(column(name, "defects", 1), some(&["-1", "-8388608", "8388607"]), "{name}");
    }
}

#[test]
fn negative_times_with_one_or_two_digits_are_right() {
    for name in NAMES {
        let tenths = some(&["-00:00:00.1", "-838:59:58.9", "-838:59:58.9"]);
        assert_eq!(column(name, "defects", 2), tenths, "{name}");
        let hundredths = some(&["-00:00:01.50", "-12:34:56.78", "-12:34:56.78"]);
        assert_eq!(column(name, "defects", 3), hundredths, "{name}");
    }
}

#[test]
fn year_zero_is_not_1900() {
    for name in NAMES {
        assert_eq!(column(name, "defects", 4), some(&["0000", "1901", "2155"]), "{name}");
    }
}

#[test]
fn timestamps_of_mariadb_reach_to_2106() {
    let expected = some(&["2106-02-07 06:28:15.999", "2100-01-01 00:00:00.000"]);
    assert_eq!(column("mariadb-11.8", "late", 1), expected);
}

#[test]
fn compressed_columns_of_mariadb_are_read() {
    for name in ["mariadb-10.11", "mariadb-11.8"] {
        let texts = column(name, "own", 3);
        assert_eq!(texts[0], Some("é".repeat(150)), "{name}");
        assert_eq!(texts[1], Some("long".repeat(60)), "{name}");
        assert_eq!(column(name, "own", 4)[0], Some("b".repeat(200)), "{name}");
    }
}

/// The payload event of the recorded binlog: the body.
fn payload() -> Vec<u8> {
    let frames = binlog::frames(&golden::load("mysql-9.7"));
    let frame = frames.iter().find(|frame| parts(frame).0 == EventType::TRANSACTION_PAYLOAD);
    parts(frame.expect("a payload was recorded")).1.to_vec()
}

/// How many events a payload gives before it ends, and the fault that ends it.
fn open(body: &[u8]) -> (usize, Option<Fault>) {
    let mut decoder = decoder("mysql-9.7");
    let frame = with_checksum(EventType::TRANSACTION_PAYLOAD, body);
    let event = match decoder.decode(&frame) {
        Ok(event) => event,
        Err(error) => return (0, Some(error.fault)),
    };
    let Body::Payload(payload) = event.body else { panic!("not a payload") };
    let events = match decoder.open(&payload) {
        Ok(events) => events,
        Err(error) => return (0, Some(error.fault)),
    };
    let mut good = 0;
    for event in events {
        match event {
            Ok(_) => good += 1,
            Err(error) => return (good, Some(error.fault)),
        }
    }
    (good, None)
}

#[test]
fn damage_in_a_compressed_transaction_is_an_error_and_not_an_empty_transaction() {
    let body = payload();
    let (whole, fault) = open(&body);
    assert!(whole >= 4 && fault.is_none(), "{fault:?}");
    let mut seen = 0;
    for at in body.len() / 2..body.len() {
        let mut damaged = body.clone();
        damaged[at] ^= 0x55;
        // The compressed form has no sum of its own: what is damaged may still mean something, but
        // it is never nothing without an error.
        let (good, fault) = open(&damaged);
        assert!(fault.is_some() || good == whole, "byte {at}: {good} events and no error");
        seen += usize::from(fault.is_some());
    }
    assert!(seen > 10, "damage was seen {seen} times");
    for length in 0..body.len() {
        assert!(open(&body[..length]).1.is_some(), "cut off at {length}");
    }
}

#[test]
fn a_payload_is_not_believed_to_be_as_large_as_it_says() {
    let body = payload();
    // Field 3, the length after decompression, one or more bytes in packed form.
    let data = body.len() - usize::try_from(size_field(&body)).unwrap();
    let mut lying = vec![2, 1, 0, 3, 9, 0xFE];
    lying.extend_from_slice(&(1u64 << 50).to_le_bytes());
    lying.extend_from_slice(&[1, 9, 0xFE]);
    lying.extend_from_slice(&((body.len() - data) as u64).to_le_bytes());
    lying.push(0);
    lying.extend_from_slice(&body[data..]);
    let (good, fault) = open(&lying);
    assert!(good >= 4, "{fault:?}");
    assert_eq!(fault, Some(Fault::Damaged("payload")));
}

/// The value of field 1 of a payload, its compressed size.
fn size_field(body: &[u8]) -> u64 {
    let mut at = 0;
    while body[at] != 1 {
        at += 2 + usize::from(body[at + 1]);
    }
    match body[at + 2] {
        0xFC => u64::from(u16::from_le_bytes([body[at + 3], body[at + 4]])),
        small => small.into(),
    }
}

#[test]
fn an_event_may_be_larger_than_a_packet() {
    let statement = vec![b'x'; 40 << 20];
    let frame = with_checksum(EventType::MARIADB_ANNOTATE_ROWS, &statement);
    let event = decoder("mariadb-10.11").decode(&frame).unwrap();
    assert!(matches!(event.body, Body::RowsQuery(text) if text.len() == statement.len()));
}

#[test]
fn every_checksum_is_verified() {
    for name in NAMES {
        let frames = binlog::frames(&golden::load(name));
        for (at, frame) in frames.iter().enumerate() {
            let mut damaged = frame.to_vec();
            // Not the length, and not the flag that the server itself leaves out of the sum.
            let byte = if at % 2 == 0 { 20 } else { damaged.len() - 1 };
            damaged[byte] ^= 1;
            let mut decoder = Decoder::new(Limits::default());
            if at > 0 {
                decoder.decode(&frames[0]).unwrap();
            }
            let error = decoder.decode(&damaged.into()).expect_err("one bit is another");
            assert!(
                matches!(error.fault, Fault::Checksum { .. } | Fault::Unsupported { .. }),
                "{error}"
            );
        }
    }
}

#[test]
fn truncated_events_are_errors() {
    for name in NAMES {
        let mut decoder = decoder(name);
        for frame in binlog::frames(&golden::load(name)) {
            for length in 0..frame.len() {
                assert!(decoder.decode(&frame.slice(..length)).is_err());
            }
        }
    }
}

#[test]
fn a_decimal_inside_of_json_stays_a_decimal() {
    let texts = column("mysql-9.7", "jsons", 1);
    let first = r#"{"d": 1.50, "u": 18446744073709551615, "x": "base64:type15:YWJj"}"#;
    assert_eq!(texts[0].as_deref(), Some(first));
    // And put together from a difference.
    assert_eq!(texts[1], Some(first.replace("1.50", "-2.50")));
}

#[test]
fn the_first_rotate_of_mariadb_has_no_checksum_in_its_file_name() {
    let body = [&4u64.to_le_bytes()[..], b"binlog.000002"].concat();
    for frame in
        [with_checksum(EventType::ROTATE, &body), without_checksum(EventType::ROTATE, &body)]
    {
        let event = Decoder::new(Limits::default()).decode(&frame).unwrap();
        let Body::Rotate(rotate) = event.body else { panic!("not a rotate") };
        assert_eq!((rotate.file.as_str(), rotate.position), ("binlog.000002", 4));
    }
}

#[test]
fn positions_beyond_4_gib_are_whole() {
    let far: u64 = 5 << 32;
    let body = [&[1, 4][..], b"file", &[2, 9, 0xFE], &far.to_le_bytes(), &[0]].concat();
    let frame = with_checksum(EventType::HEARTBEAT_V2, &body);
    let event = decoder("mysql-9.7").decode(&frame).unwrap();
    let Body::Heartbeat(heartbeat) = event.body else { panic!("not a heartbeat") };
    assert_eq!((heartbeat.file.as_str(), heartbeat.position), ("file", Some(far)));
    let body = [&far.to_le_bytes()[..], b"file"].concat();
    let event = decoder("mysql-9.7").decode(&with_checksum(EventType::ROTATE, &body)).unwrap();
    assert!(matches!(event.body, Body::Rotate(rotate) if rotate.position == far));
}

#[test]
fn all_updated_schemas_of_a_statement_are_read() {
    let settings = [&[12, 3][..], b"one\0two\0\0", &[13, 1, 2, 3]].concat();
    let mut body = [&[0; 8][..], &[1, 0, 0, settings.len() as u8, 0]].concat();
    body.extend_from_slice(&settings);
    body.extend_from_slice(b"t\0drop database one");
    let event = decoder("mysql-9.7").decode(&with_checksum(EventType::QUERY, &body)).unwrap();
    let Body::Query(query) = event.body else { panic!("not a query") };
    assert_eq!(query.session.updated_schemas, ["one", "two", ""]);
    assert_eq!((query.schema.as_str(), query.text().unwrap().as_str()), ("t", "drop database one"));
}

#[test]
fn session_settings_of_mariadb_are_known() {
    let settings = [&[128, 1, 2, 3, 129][..], &77u64.to_le_bytes(), &[130, 4], &[9; 8]].concat();
    let mut body = [&[0; 8][..], &[0, 0, 0, settings.len() as u8, 0]].concat();
    body.extend_from_slice(&settings);
    body.extend_from_slice(b"\0alter table x");
    let event = decoder("mariadb-11.8").decode(&with_checksum(EventType::QUERY, &body)).unwrap();
    let Body::Query(query) = event.body else { panic!("not a query") };
    assert_eq!(query.session.unknown_setting, None);
    assert_eq!((query.session.ddl_xid, query.session.alter_flags), (Some(77), Some(4)));
}

#[test]
fn old_times_keep_their_sign_and_their_hours() {
    // TABLE_MAP of t.old(a TIME) in the form before MySQL 5.6, and a row with -838:59:59.
    let map = [&[1, 0, 0, 0, 0, 0, 0, 0, 1][..], b"t\0\x03old\0", &[1, 11, 0, 0]].concat();
    let number = (-8_385_959i32).to_le_bytes();
    let rows = [&[1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0][..], &number[..3]].concat();
    let mut decoder = decoder("mysql-9.7");
    let event = decoder.decode(&with_checksum(EventType::TABLE_MAP, &map)).unwrap();
    let Body::TableMap(map) = event.body else { panic!("not a table map") };
    assert_eq!((map.flavor, map.table.as_str()), (Flavor::Mysql, "old"));
    let layout = Layout::new(&map, &[]).unwrap();
    let event = decoder.decode(&with_checksum(EventType::WRITE_ROWS_V1, &rows)).unwrap();
    let Body::Rows(rows) = event.body else { panic!("not rows") };
    let mut reader = rows.reader(&layout).unwrap();
    let change = reader.read().unwrap().expect("a row");
    let Cell::Value(Value::Time(time)) = change.after(0).unwrap() else { panic!("not a time") };
    assert_eq!(Value::Time(time).text().unwrap(), b"-838:59:59");
    assert!(reader.read().unwrap().is_none());
}

#[test]
fn values_do_not_get_into_what_is_shown_for_people() {
    let decoded = binlog::decode(&golden::load("mysql-9.7")).unwrap();
    assert!(!format!("{decoded:?}").contains("zzz"));
    let mut decoder = decoder("mariadb-10.11");
    let frame = with_checksum(EventType::MARIADB_ANNOTATE_ROWS, b"insert into t values ('secret')");
    assert!(!format!("{:?}", decoder.decode(&frame).unwrap()).contains("secret"));
}

/// What is not stated is not guessed.
#[test]
fn a_sign_that_nobody_states_is_an_error() {
    let map = [&[1, 0, 0, 0, 0, 0, 0, 0, 1][..], b"t\0\x01x\0", &[1, 3, 0, 0]].concat();
    let event =
        decoder("mariadb-10.11").decode(&with_checksum(EventType::TABLE_MAP, &map)).unwrap();
    let Body::TableMap(map) = event.body else { panic!("not a table map") };
    let error = Layout::new(&map, &[]).unwrap_err();
    assert!(matches!(error.fault, Fault::InColumn { column: 0, .. }), "{error}");
}

#[test]
fn an_event_that_is_not_known_is_an_error_unless_its_source_says_otherwise() {
    let mut decoder = decoder("mysql-9.7");
    for code in [43, 99, 162, 200] {
        let frame = with_checksum(EventType(code), b"anything");
        let error = decoder.decode(&frame).unwrap_err();
        assert!(matches!(error.fault, Fault::Unsupported { what: "event type", .. }), "{error}");
        let mut ignorable = frame[..frame.len() - 4].to_vec();
        ignorable[17] |= 0x80;
        let sum = crc32fast::hash(&ignorable);
        ignorable.extend_from_slice(&sum.to_le_bytes());
        let event = decoder.decode(&Bytes::from(ignorable)).unwrap();
        assert!(matches!(event.body, Body::Ignored));
    }
}
