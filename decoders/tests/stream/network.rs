//! A network that fails: each failure ends in an error that a reconnect may heal, and the stream
//! after it goes on where the durable position is.

use std::time::Duration;

use decoders::Source;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::stream::PgStream;
use decoders::source::Disposition;
use tests::proxy::{FaultProxy, Mode};

use crate::stage::{Stage, table, transaction};

async fn a_broken_link_is_noticed(mode: Mode, within: Duration) {
    let stage = Stage::new(15).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let proxy = FaultProxy::start(stage.server.port()).unwrap();
    let url = proxy.url(&stage.server.url("postgres"), stage.server.port());
    let info = ConnInfo::parse(&url).unwrap();
    let mut stream = PgStream::open(&info, stage.options()).await.unwrap();
    stage.sql("INSERT INTO t VALUES (1)").await;
    let first = transaction(&mut stream).await;

    proxy.set(mode);
    stage.sql("INSERT INTO t VALUES (2)").await;
    let broken = async {
        loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(within, broken).await.unwrap();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");

    // The server may not have noticed: its walsender is ended as a left-over of ours.
    proxy.set(Mode::Pass);
    let mut options = stage.options();
    options.start = first.end_lsn;
    let mut stream = PgStream::open(&info, options).await.unwrap();
    let second = transaction(&mut stream).await;
    assert!(second.commit_lsn >= first.end_lsn.unwrap());
}

#[tokio::test]
async fn a_cut_link_is_noticed_at_once() {
    a_broken_link_is_noticed(Mode::Cut, Duration::from_secs(5)).await;
}

/// Ten seconds until the silence is a worry, up to ten until the second connection gives up.
#[tokio::test]
async fn a_half_open_link_is_noticed() {
    a_broken_link_is_noticed(Mode::Freeze, Duration::from_secs(25)).await;
}
