//! A client of logical replication that comes through the proxy.

use cutover::Side;

use super::proxy::{Stage, pair};
use super::raw::Raw;
use super::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_client_blocks_no_run_and_is_cut_at_the_flip() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let admin = blue.open().await;
    for sql in ["CREATE TABLE t (x int)", "CREATE PUBLICATION p FOR TABLE t"] {
        admin.batch_execute(sql).await.unwrap();
    }
    let stage = Stage::start(&blue, &green).await;
    let mut client = Raw::open_replication(stage.port).await;
    let slot = b"CREATE_REPLICATION_SLOT s LOGICAL pgoutput NOEXPORT_SNAPSHOT\0";
    client.send(&[(b'Q', slot)]).await;
    client.until(b'Z').await;
    let start =
        b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')\0";
    client.send(&[(b'Q', start)]).await;
    client.until(b'W').await;
    // More than a read of the proxy's, so the hold may find it in the middle of a message.
    let write = "INSERT INTO t SELECT generate_series(1, 20000)";
    admin.batch_execute(write).await.unwrap();
    let tied = std::collections::BTreeMap::from([("a replication connection".to_owned(), 1)]);
    let surveyed = stage.must(cutover::proxy::control::Order::Survey).await;
    assert_eq!((surveyed.pinned, surveyed.unasked), (tied.clone(), 0));
    let (serial, hold) = stage.hold();
    let held = hold.await.unwrap();
    assert_eq!((held.error, held.held, held.pinned), (None, 1, tied));
    stage.release(serial).await;
    // A run that goes back leaves the stream as it was.
    for _ in 0..20_000 {
        client.until(b'd').await;
    }
    assert_eq!(stage.status().await.cut, 0);
    stage.turn(Side::Green).await;
    until("it is cut", || async { stage.status().await.cut == 1 }).await;
    client.ended().await;
}
