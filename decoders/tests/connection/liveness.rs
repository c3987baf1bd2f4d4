//! Peers that stop answering are noticed, and lost connections say why.

use std::time::Duration;

use decoders::postgres::error::{ConnectError, WireError};
use decoders::postgres::session;
use decoders::postgres::wire::ReplicationConnection;
use tokio::time::{Instant, timeout};
use tokio_postgres::SimpleQueryMessage;

use crate::peers;
use crate::server::{PASSWORD, info, server};

#[tokio::test]
async fn a_listener_that_says_nothing_runs_into_the_timeout() {
    let address = peers::silent().await;
    for mode in ["disable", "prefer", "require"] {
        let info = info(&format!(
            "host=127.0.0.1 port={} user=u dbname=d sslmode={mode} connect_timeout=1",
            address.port()
        ));
        let begun = Instant::now();
        let (session, wire) = tokio::join!(
            session::connect(&info, "cutover test"),
            ReplicationConnection::connect(&info, "cutover test")
        );
        assert!(begun.elapsed() < Duration::from_secs(3));
        for error in [session.unwrap_err(), wire.unwrap_err()] {
            assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
            assert!(error.is_transient());
        }
    }
}

#[tokio::test]
async fn a_vanished_peer_is_noticed_within_the_bound() {
    let vanishing = peers::Vanishing::start(server().port).await;
    let info = info(&format!(
        "host=127.0.0.1 port={} user=u_trust dbname=shop sslmode=disable \
         keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=2000",
        vanishing.address.port()
    ));
    let session = session::connect(&info, "cutover test").await.unwrap();
    let mut wire = ReplicationConnection::connect(&info, "cutover test").await.unwrap();
    let slot = "CREATE_REPLICATION_SLOT vanishing TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT";
    wire.simple_query(slot).await.unwrap();
    let start = "START_REPLICATION SLOT vanishing LOGICAL 0/0 \
                 (proto_version '1', publication_names 'everything')";
    let mut stream = wire.copy_both(start).await.unwrap();

    vanishing.vanish(2).await;
    let begun = Instant::now();
    let (reason, failure) = timeout(Duration::from_secs(15), async {
        tokio::join!(session.closed(), async {
            loop {
                if let Err(error) = stream.next_frame().await {
                    break error;
                }
            }
        })
    })
    .await
    .expect("both losses are noticed");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(reason.contains("timed out"), "{reason}");
    assert!(matches!(failure, WireError::Io { .. }), "{failure}");
    assert!(failure.is_transient());
}

#[tokio::test]
async fn a_terminated_backend_says_so() {
    let server = server();
    let info = server.tcp(&format!("user=u_scram dbname=shop password='{PASSWORD}'"));
    let session = session::connect(&info, "cutover test").await.unwrap();
    let mut wire = ReplicationConnection::connect(&info, "cutover test").await.unwrap();
    // The simple protocol leaves nothing in flight that could receive the server's last words.
    let messages = session.simple_query("SELECT pg_backend_pid()").await.unwrap();
    let pid = messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(|pid| pid.parse::<i32>().unwrap()),
            _ => None,
        })
        .unwrap();
    assert!(session.closed_reason().is_none());
    for pid in [pid, wire.server().process_id] {
        server.run_sql(&format!("SELECT pg_terminate_backend({pid})"));
    }
    let reason = timeout(Duration::from_secs(10), session.closed()).await.unwrap();
    assert!(reason.contains("57P01"), "{reason}");
    let error = session.query("SELECT 1", &[]).await.unwrap_err();
    assert!(session::is_transient(&error), "{error}");
    let error = wire.simple_query("IDENTIFY_SYSTEM").await.unwrap_err();
    assert_eq!(error.server_error().unwrap().sqlstate, "57P01", "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn nobody_listening_is_transient_and_the_next_host_is_tried() {
    let server = server();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let one = info(&format!("host=127.0.0.1 port={dead} user=u_trust dbname=shop"));
    let error = session::connect(&one, "cutover test").await.unwrap_err();
    assert!(matches!(error, ConnectError::Io { .. }) && error.is_transient(), "{error}");

    let two = |attrs: &str| {
        info(&format!(
            "host=127.0.0.1,127.0.0.1 port={dead},{} user=u_trust dbname=shop \
             target_session_attrs={attrs}",
            server.port
        ))
    };
    for attrs in ["any", "read-write", "primary", "prefer-standby"] {
        let session = session::connect(&two(attrs), "cutover test").await.unwrap();
        assert_eq!(session.host().port, server.port);
        ReplicationConnection::connect(&two(attrs), "cutover test").await.unwrap();
    }
    for attrs in ["standby", "read-only"] {
        let error = session::connect(&two(attrs), "cutover test").await.unwrap_err();
        assert!(error.to_string().contains(attrs), "{error}");
        assert!(error.is_transient());
        ReplicationConnection::connect(&two(attrs), "cutover test").await.unwrap_err();
    }
    let unknown = info("host=no-such-host.invalid user=u dbname=d");
    let error = session::connect(&unknown, "cutover test").await.unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }) && error.is_transient(), "{error}");
}
