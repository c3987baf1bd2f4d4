//! Servers that say what no server should, or say goodbye: errors with a place, never a panic,
//! never a silent skip.

use decoders::postgres::error::{ConnectError, ProtocolError, WireError};
use decoders::postgres::session;
use decoders::postgres::wire::{CopyBoth, ReplicationConnection};

use crate::peers;
use crate::server::info;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn error_response(severity: &str, sqlstate: &str, text: &[u8]) -> Vec<u8> {
    let mut body = format!("S{severity}\0V{severity}\0C{sqlstate}\0M").into_bytes();
    body.extend_from_slice(text);
    body.extend_from_slice(b"\0\0");
    message(b'E', &body)
}

/// AuthenticationOk, a version, BackendKeyData, ReadyForQuery.
fn startup() -> Vec<u8> {
    let mut bytes = message(b'R', &[0, 0, 0, 0]);
    bytes.extend(message(b'S', b"server_version\x0013.4\0"));
    bytes.extend(message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]));
    bytes.extend(message(b'Z', b"I"));
    // jit exists since 11: one SET is answered, and the badge.
    for tag in [&b"SET\0"[..], b"SELECT 1\0"] {
        bytes.extend(message(b'C', tag));
        bytes.extend(message(b'Z', b"I"));
    }
    bytes
}

async fn connect(script: Vec<u8>) -> Result<ReplicationConnection, ConnectError> {
    let address = peers::scripted(script).await;
    let text = format!("host=127.0.0.1 port={} user=u dbname=d sslmode=disable", address.port());
    ReplicationConnection::connect(&info(&text), "cutover test").await
}

async fn streaming(script: Vec<u8>) -> CopyBoth {
    let copy_both = message(b'W', &[0, 0, 0]);
    let wire = connect([startup(), copy_both, script].concat()).await.unwrap();
    assert_eq!((wire.server().version, wire.server().process_id), (130_004, 7));
    wire.copy_both("START_REPLICATION").await.unwrap()
}

#[tokio::test]
async fn a_stream_ends_in_each_orderly_way() {
    for end in [message(b'c', b""), message(b'C', b"COPY 0\0")] {
        let script = [
            message(b'd', b"one"),
            message(b'N', b"SNOTICE\0C00000\0Mhello\0\0"),
            message(b'S', b"TimeZone\0UTC\0"),
            message(b'd', b""),
            end,
        ];
        let mut stream = streaming(script.concat()).await;
        assert_eq!(stream.next_frame().await.unwrap().unwrap(), &b"one"[..]);
        assert_eq!(stream.next_frame().await.unwrap().unwrap(), &b""[..]);
        for _ in 0..2 {
            assert_eq!(stream.next_frame().await.unwrap(), None);
            assert_eq!(stream.try_next_buffered().unwrap(), None);
        }
        assert_eq!(stream.server().parameters["TimeZone"], "UTC");
    }
}

#[tokio::test]
async fn a_stream_breaks_with_a_reason_and_a_place() {
    let base = (startup().len() + 8) as u64;
    let mut stream = streaming(error_response("FATAL", "57P01", b"bye")).await;
    let error = stream.next_frame().await.unwrap_err();
    assert_eq!(error.server_error().unwrap().message, "bye");
    assert!(error.is_transient());

    // Letters that exist but do not belong here, and letters that do not exist.
    for (tag, body) in [(b'D', &b"\0\0"[..]), (b'Z', b"I"), (b'R', b"\0\0\0\0"), (b'?', b"")] {
        let script = [message(b'd', b"ok"), message(tag, body), message(b'd', b"later")];
        let mut stream = streaming(script.concat()).await;
        stream.next_frame().await.unwrap().unwrap();
        let error = stream.next_frame().await.unwrap_err();
        let offset = match &error {
            WireError::Protocol {
                source:
                    ProtocolError::Unexpected { offset, .. } | ProtocolError::Malformed { offset, .. },
                ..
            } => *offset,
            other => panic!("{other}"),
        };
        assert_eq!(offset, base + 7, "{error}");
        assert!(!error.is_transient());
    }

    for length in [-1_i32, 0, 3, i32::MAX] {
        let mut script = vec![b'd'];
        script.extend_from_slice(&length.to_be_bytes());
        let mut stream = streaming(script).await;
        let error = stream.next_frame().await.unwrap_err();
        assert!(error.to_string().contains("impossible length"), "{error}");
        assert!(!error.is_transient());
    }

    // Cut off inside a frame.
    let whole = message(b'd', b"something long enough");
    let mut stream = streaming(whole[..10].to_vec()).await;
    let error = stream.next_frame().await.unwrap_err();
    assert!(matches!(error, WireError::Io { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_startup_breaks_with_a_reason() {
    for (sqlstate, transient) in [("57P03", true), ("53300", true), ("3D000", false)] {
        // The text is in the server's own encoding before authentication.
        let script = error_response("FATAL", sqlstate, b"no \xe9\xff");
        let error = connect(script.clone()).await.unwrap_err();
        assert_eq!(error.server_error().unwrap().sqlstate, sqlstate);
        assert_eq!(error.is_transient(), transient, "{error}");
        assert!(matches!(error, ConnectError::Server { .. }), "{error}");

        let address = peers::scripted(error_response("FATAL", sqlstate, b"no")).await;
        let text = format!("host=127.0.0.1 port={} user=u sslmode=disable", address.port());
        let error = session::connect(&info(&text), "cutover test").await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{error}");
    }
    let error = connect(Vec::new()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Io { .. }) && error.is_transient(), "{error}");
    for rubbish in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"R\0\0\0\x05\0", b"\0\0\0\0\0"] {
        let error = connect(rubbish.to_vec()).await.unwrap_err();
        assert!(!error.is_transient() || matches!(error, ConnectError::Io { .. }), "{error}");
    }
    // Nothing of a session may come before its authentication.
    let error = connect(message(b'Z', b"I")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Authentication { .. }), "{error}");
}
