//! What must hold for any bytes, and the refusals one by one.

use proptest::prelude::*;

use super::encode::{any_control, any_message, encode, encode_control, encode_streamed};
use super::*;
use crate::change::Value;

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(message in any_message()) {
        prop_assert_eq!(decode(&encode(&message)), Ok(message));
    }

    #[test]
    fn every_proper_prefix_is_refused(message in any_message()) {
        let frame = encode(&message);
        for length in 0..frame.len() {
            let error = decode(&frame.slice(..length)).unwrap_err();
            prop_assert!(error.offset <= length, "{error}");
        }
    }

    #[test]
    fn a_byte_too_many_is_refused(message in any_message(), extra: u8) {
        let frame = encode(&message);
        let longer: Bytes = frame.iter().copied().chain([extra]).collect();
        let error = DecodeError {
            offset: frame.len(),
            tag: frame.first().copied(),
            kind: DecodeErrorKind::TrailingBytes(1),
        };
        prop_assert_eq!(decode(&longer), Err(error));
    }

    #[test]
    fn damaged_frames_never_panic(message in any_message(), damage: Vec<(prop::sample::Index, u8)>) {
        let mut frame = encode(&message).to_vec();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let _ = decode(&Bytes::from(frame));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
        let frame = Bytes::from(bytes);
        let _ = decode(&frame);
        let _ = decode_streamed(&frame);
        let _ = decode_control(&frame);
        let _ = streamed_xid(&frame);
    }

    #[test]
    fn what_was_streamed_is_decoded_with_its_transaction(message in any_message(), xid: u32) {
        let frame = encode_streamed(xid, &message);
        match message {
            Message::Begin(_) | Message::Commit(_) => {
                prop_assert_eq!(decode_streamed(&frame).unwrap_err().kind, DecodeErrorKind::UnknownTag);
                prop_assert!(streamed_xid(&frame).is_err());
            }
            Message::Origin(_) => {
                prop_assert_eq!(streamed_xid(&frame), Ok(None));
                prop_assert_eq!(decode_streamed(&frame), Ok(message));
            }
            _ => {
                prop_assert_eq!(streamed_xid(&frame), Ok(Some(xid)));
                prop_assert_eq!(decode_control(&frame), Ok(None));
                for length in 0..frame.len() {
                    prop_assert!(decode_streamed(&frame.slice(..length)).is_err());
                }
                prop_assert_eq!(decode_streamed(&frame), Ok(message));
            }
        }
    }

    #[test]
    fn controls_come_back_and_no_prefix_of_them_does(control in any_control(), extra: u8) {
        let frame = encode_control(&control);
        for length in 1..frame.len() {
            prop_assert!(decode_control(&frame.slice(..length)).is_err());
        }
        let longer: Bytes = frame.iter().copied().chain([extra]).collect();
        prop_assert!(decode_control(&longer).is_err());
        prop_assert!(decode_streamed(&frame).is_err() && streamed_xid(&frame).is_err());
        prop_assert_eq!(decode_control(&frame), Ok(Some(control)));
    }
}

fn refusal(frame: &[u8]) -> (usize, DecodeErrorKind) {
    let error = decode(&Bytes::copy_from_slice(frame)).unwrap_err();
    assert_eq!(error.tag, frame.first().copied());
    (error.offset, error.kind)
}

#[test]
fn values_are_slices_of_the_frame() {
    let frame = Bytes::from_static(b"I\0\0\0\x01N\0\x01t\0\0\0\x03abc");
    let Ok(Message::Insert(insert)) = decode(&frame) else { panic!("not an insert") };
    let Some(Value::Text(text)) = insert.new.value(0) else { panic!("not text") };
    assert_eq!(text.as_ptr(), frame[13..].as_ptr());
}

#[test]
fn messages_of_newer_protocols_are_unknown() {
    for tag in *b"ScEAbPKrpz\0\xff" {
        assert_eq!(refusal(&[tag, 0, 0, 0, 0]), (0, DecodeErrorKind::UnknownTag));
    }
}

#[test]
fn lengths_below_zero_are_refused() {
    let what = "length of a value";
    let frame = b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff";
    assert_eq!(refusal(frame), (9, DecodeErrorKind::Negative { what, found: -1 }));
    let what = "number of columns";
    assert_eq!(
        refusal(b"I\0\0\0\x01N\xff\xfe"),
        (6, DecodeErrorKind::Negative { what, found: -2 })
    );
    let what = "number of truncated tables";
    assert_eq!(refusal(b"T\x80\0\0\0\0"), (1, DecodeErrorKind::Negative { what, found: i32::MIN }));
}

#[test]
fn counts_that_the_frame_cannot_hold_are_refused_before_anything_is_reserved() {
    let frame = b"T\x7f\xff\xff\xff\0\0\0\0\x01";
    let needed = 0x7fff_ffff * 4;
    assert_eq!(refusal(frame), (5, DecodeErrorKind::Truncated { needed, left: 5 }));
    let frame = b"I\0\0\0\x01N\x7f\xffn";
    assert_eq!(refusal(frame), (8, DecodeErrorKind::Truncated { needed: 0x7fff, left: 1 }));
}

#[test]
fn unknown_letters_and_flags_are_refused() {
    let letter = |what, found| DecodeErrorKind::UnknownByte { what, found };
    assert_eq!(refusal(b"I\0\0\0\x01K\0\0"), (5, letter("new row", b'K')));
    assert_eq!(refusal(b"U\0\0\0\x01X\0\0"), (5, letter("row image", b'X')));
    assert_eq!(refusal(b"D\0\0\0\x01N\0\0"), (5, letter("row image", b'N')));
    assert_eq!(refusal(b"U\0\0\0\x01K\0\0K\0\0"), (8, letter("new row", b'K')));
    assert_eq!(refusal(b"I\0\0\0\x01N\0\x01x"), (8, letter("kind of cell", b'x')));
    assert_eq!(refusal(b"R\0\0\0\x01\0t\0x\0\0"), (8, letter("replica identity", b'x')));
    let flags = |what, found| DecodeErrorKind::UnknownFlags { what, found };
    assert_eq!(refusal(b"C\x01"), (1, flags("commit", 1)));
    assert_eq!(refusal(b"M\x02"), (1, flags("logical message", 2)));
    assert_eq!(refusal(b"T\0\0\0\0\x04"), (5, flags("truncate", 4)));
}

#[test]
fn names_must_be_terminated_utf8() {
    assert_eq!(refusal(b"Y\0\0\0\x01public"), (5, DecodeErrorKind::Unterminated));
    assert_eq!(refusal(b"Y\0\0\0\x01p\xff\0t\0"), (5, DecodeErrorKind::NotUtf8));
}

#[test]
fn an_empty_schema_name_means_pg_catalog() {
    let frame = Bytes::from_static(b"Y\0\0\0\x01\0t\0");
    let Ok(Message::Type(name)) = decode(&frame) else { panic!("not a type") };
    assert_eq!(name.name, crate::change::QualifiedName::new("pg_catalog", "t"));
}

#[test]
fn a_time_out_of_range_is_refused() {
    let mut frame = vec![b'B'];
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&i64::MAX.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    assert_eq!(refusal(&frame), (9, DecodeErrorKind::TimeOutOfRange));
}

#[test]
fn an_empty_frame_is_refused() {
    let error = decode(&Bytes::new()).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Truncated { needed: 1, left: 0 });
    assert_eq!(
        error.to_string(),
        "pgoutput message (empty frame) is malformed at byte 0: 1 bytes are needed and 0 are left"
    );
}
