//! What an open session is like.

use std::time::{Duration, Instant};

use decoders::postgres::session::{self, Session};
use decoders::postgres::wire::ReplicationConnection;

use crate::server::{PASSWORD, server};

/// `u_trust` has other settings for each of these.
#[tokio::test]
async fn settings_do_not_depend_on_the_role() {
    let info =
        server().socket("user=u_trust dbname=shop application_name=mine options='-c work_mem=5MB'");
    let session = session::connect(&info, "cutover probe").await.unwrap();
    let mut wire = ReplicationConnection::connect(&info, "cutover probe").await.unwrap();
    for (setting, expected) in [
        ("DateStyle", "ISO, DMY"),
        ("TimeZone", "UTC"),
        ("statement_timeout", "0"),
        ("search_path", ""),
        ("bytea_output", "hex"),
        ("extra_float_digits", "3"),
        ("client_encoding", "UTF8"),
        ("row_security", "off"),
        ("application_name", "cutover probe"),
        ("work_mem", "5MB"),
    ] {
        let expected_now = |value: &str| {
            // ISO keeps the role's order of day and month, which ISO output does not use.
            // An empty list is shown as one empty name or as nothing, depending on how it was set.
            value == expected
                || (setting == "DateStyle" && value.starts_with("ISO"))
                || (setting == "search_path" && value == "\"\"")
        };
        let row = session.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert!(expected_now(row.get(0)), "{setting}: {}", row.get::<_, String>(0));
        let rows = wire.simple_query(&format!("SHOW {setting}")).await.unwrap();
        assert!(expected_now(rows[0][0].as_deref().unwrap()), "{setting}: {rows:?}");
    }
    let plain = session::connect_plain(&info, "cutover console").await.unwrap();
    let row = plain.query_one("SHOW TimeZone", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "Asia/Kathmandu");
}

async fn backend_pid(session: &Session) -> i32 {
    session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_statement_is_cancelled_over_each_transport() {
    let server = server();
    let rest = format!("user=u_scram dbname=shop password='{PASSWORD}'");
    for info in [
        server.socket(&rest),
        server.tcp(&format!("{rest} sslmode=disable")),
        server.tcp(&format!("{rest} sslmode=verify-full sslrootcert={}", server.file("roots.crt"))),
    ] {
        let session = session::connect(&info, "cutover test").await.unwrap();
        let canceller = session.canceller();
        let pid = backend_pid(&session).await;
        let observer =
            session::connect(&server.socket("user=postgres dbname=shop"), "").await.unwrap();
        let sleeping = session.batch_execute("SELECT pg_sleep(60)");
        let cancelling = async {
            let running = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1";
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let row = observer.query_one(running, &[&pid]).await.unwrap();
                if row.get::<_, Option<bool>>(0) == Some(true) {
                    break canceller.cancel().await.unwrap();
                }
                assert!(Instant::now() < deadline, "the statement never began");
            }
        };
        let (slept, ()) = tokio::join!(sleeping, cancelling);
        let error = slept.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014", "{error}");
        session.query_one("SELECT 1", &[]).await.unwrap();
        assert!(session.closed_reason().is_none());
    }
}
