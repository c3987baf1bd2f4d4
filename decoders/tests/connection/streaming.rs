//! The replication connection: commands, the two-way stream, and the way back.

use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::error::{ProtocolError, WireError};
use decoders::postgres::session;
use decoders::postgres::wire::{CopyBoth, ReplicationConnection};
use tokio::time::timeout;

use crate::server::{PASSWORD, server};

async fn stream(info: &ConnInfo, slot: &str) -> CopyBoth {
    let mut wire = ReplicationConnection::connect(info, "cutover test").await.unwrap();
    let create =
        format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
    let rows = wire.simple_query(&create).await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some(slot));
    let start = format!(
        "START_REPLICATION SLOT {slot} LOGICAL 0/0 \
         (proto_version '1', publication_names 'everything')"
    );
    wire.copy_both(&start).await.unwrap()
}

/// The value of the row, if the payload is an Insert into the one-column table (pgoutput 'I').
fn content(payload: &[u8]) -> Option<&[u8]> {
    let insert = payload.strip_prefix(b"w")?.get(24..)?.strip_prefix(b"I")?;
    let value = insert.get(4..)?.strip_prefix(b"N\0\x01t")?;
    value.get(4..)
}

/// `r` + three positions + time + flag: nothing is confirmed.
fn standby_status() -> Vec<u8> {
    let mut status = vec![b'r'];
    status.resize(34, 0);
    status
}

#[tokio::test]
async fn frames_of_all_sizes_arrive_whole_however_often_the_wait_is_dropped() {
    let server = server();
    let rest = format!("user=u_scram dbname=shop password='{PASSWORD}'");
    for (slot, info) in [
        ("frames_unix", server.socket(&rest)),
        ("frames_tcp", server.tcp(&format!("{rest} sslmode=disable"))),
        ("frames_tls", server.tcp(&format!("{rest} sslmode=require"))),
    ] {
        let mut stream = stream(&info, slot).await;
        let session = session::connect(&info, "cutover test").await.unwrap();
        let lengths: Vec<usize> = (0..200).chain([100_000, 1, 3_000_000, 0, 70_000]).collect();
        for length in &lengths {
            let sql = format!("INSERT INTO public.sent VALUES (repeat('x', {length}))");
            session.batch_execute(&sql).await.unwrap();
        }
        let mut arrived = Vec::new();
        let mut dropped = 0;
        let all = async {
            while arrived.len() < lengths.len() {
                let next = tokio::select! {
                    biased;
                    next = stream.next_frame() => next.unwrap().expect("the stream goes on"),
                    () = tokio::task::yield_now() => {
                        dropped += 1;
                        continue;
                    }
                };
                arrived.extend(content(&next).map(|content| {
                    assert!(content.iter().all(|byte| *byte == b'x'));
                    content.len()
                }));
                if arrived.len() % 50 == 0 {
                    stream.send_copy_data(&standby_status()).await.unwrap();
                }
                while let Some(more) = stream.try_next_buffered().unwrap() {
                    arrived.extend(content(&more).map(<[u8]>::len));
                }
            }
        };
        timeout(Duration::from_secs(20), all).await.expect("all frames arrive");
        assert_eq!(arrived, lengths, "{slot}");
        assert!(dropped > 0);

        // The connection is usable for commands again, and so is its slot.
        let mut wire = timeout(Duration::from_secs(5), stream.finish()).await.unwrap().unwrap();
        let rows = wire.simple_query("IDENTIFY_SYSTEM").await.unwrap();
        assert_eq!(rows[0][3].as_deref(), Some("shop"));
        wire.simple_query(&format!("DROP_REPLICATION_SLOT {slot}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_command_leaves_the_connection_usable_and_an_abandoned_one_does_not() {
    let info = server().socket("user=u_trust dbname=shop");
    let mut wire = ReplicationConnection::connect(&info, "cutover test").await.unwrap();
    let error = wire.simple_query("SELECT 1/0").await.unwrap_err();
    assert_eq!(error.server_error().unwrap().sqlstate, "22012", "{error}");
    assert!(!error.is_transient());
    let error = wire.simple_query("DROP_REPLICATION_SLOT nothing").await.unwrap_err();
    assert_eq!(error.server_error().unwrap().sqlstate, "42704", "{error}");
    let rows = wire.simple_query("SELECT NULL, '', 'a'").await.unwrap();
    assert_eq!(rows, [[None, Some(String::new()), Some("a".to_owned())]]);

    let waiting = wire.simple_query("SELECT pg_sleep(60)");
    assert!(timeout(Duration::from_millis(50), waiting).await.is_err());
    let error = wire.simple_query("SELECT 1").await.unwrap_err();
    assert!(
        matches!(&error, WireError::Protocol { source: ProtocolError::Abandoned, .. }),
        "{error}"
    );

    let wire = ReplicationConnection::connect(&info, "cutover test").await.unwrap();
    let error = wire
        .copy_both("START_REPLICATION SLOT nothing LOGICAL 0/0 (proto_version '1')")
        .await
        .unwrap_err();
    assert_eq!(error.server_error().unwrap().sqlstate, "42704", "{error}");
}
