//! Each `sslmode`: what it accepts and what it refuses.

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::error::{ConnectError, TlsError};
use decoders::postgres::session;
use decoders::postgres::wire::ReplicationConnection;

use crate::peers;
use crate::server::{PASSWORD, info, server};

/// Whether the session is encrypted; both kinds of connection must agree on the outcome.
async fn outcome(info: &ConnInfo) -> Result<bool, ConnectError> {
    let wire = ReplicationConnection::connect(info, "cutover test").await;
    let session = session::connect(info, "cutover test").await;
    match (&wire, &session) {
        (Ok(wire), Ok(session)) => assert_eq!(wire.server().is_tls, session.is_tls(), "{info}"),
        (Err(wire), Err(session)) => {
            // The server's wording differs for replication before 14; the kind may not.
            let sqlstate = |error: &ConnectError| error.server_error().map(|e| e.sqlstate.clone());
            assert_eq!(sqlstate(wire), sqlstate(session), "{wire} {session}");
            assert_eq!(
                std::mem::discriminant(wire),
                std::mem::discriminant(session),
                "{wire} {session}"
            );
        }
        _ => panic!("{info}: {wire:?} {session:?}"),
    }
    session.map(|session| session.is_tls())
}

fn database(dbname: &str, rest: &str) -> ConnInfo {
    server().tcp(&format!("user=u_scram dbname={dbname} password='{PASSWORD}' {rest}"))
}

#[tokio::test]
async fn modes_against_servers_that_insist() {
    let (tls, plain, refused) = (Some(true), Some(false), None);
    for (mode, tls_only, plain_only) in [
        ("disable", refused, plain),
        ("allow", tls, plain),
        ("prefer", tls, plain),
        ("require", tls, refused),
    ] {
        for (dbname, expected) in [("tls_only", tls_only), ("plain_only", plain_only)] {
            let info = database(dbname, &format!("sslmode={mode}"));
            match (outcome(&info).await, expected) {
                (Ok(tls), Some(expected)) => assert_eq!(tls, expected, "{info}"),
                (Err(error), None) => {
                    assert_eq!(error.server_error().unwrap().sqlstate, "28000", "{error}");
                    assert!(!error.is_transient());
                }
                (other, _) => panic!("{info}: {other:?}"),
            }
        }
    }
    // With the choice, allow stays plain and prefer takes TLS.
    let shop = "user=u_trust dbname=shop";
    assert!(!outcome(&server().tcp(&format!("{shop} sslmode=allow"))).await.unwrap());
    assert!(outcome(&server().tcp(&format!("{shop} sslmode=prefer"))).await.unwrap());
    assert!(outcome(&server().tcp(shop)).await.unwrap());
    // Behind a refusal because of TLS, a wrong password is still told.
    let wrong = server().tcp("user=u_scram dbname=plain_only password=wrong sslmode=prefer");
    let error = outcome(&wrong).await.unwrap_err();
    assert_eq!(error.server_error().unwrap().sqlstate, "28P01", "{error}");
}

#[tokio::test]
async fn a_server_without_tls() {
    let address = peers::without_tls(server().port, b'N').await;
    let at = |rest: &str| {
        info(&format!(
            "host={} port={} user=u_trust dbname=shop {rest}",
            address.ip(),
            address.port()
        ))
    };
    assert!(!outcome(&at("sslmode=prefer")).await.unwrap());
    for mode in ["require", "verify-ca", "verify-full"] {
        let root = server().file("roots.crt");
        let error = outcome(&at(&format!("sslmode={mode} sslrootcert={root}"))).await.unwrap_err();
        assert!(
            matches!(&error, ConnectError::Tls { source: TlsError::NotOffered(_), .. }),
            "{error}"
        );
        assert!(!error.is_transient());
    }
    // A byte that is no answer, and a server too busy to fork.
    let odd = peers::without_tls(server().port, b'X').await;
    let text = format!("host=127.0.0.1 port={} user=u_trust dbname=shop", odd.port());
    let error = outcome(&info(&text)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
    let busy = peers::without_tls(server().port, b'E').await;
    let text = format!("host=127.0.0.1 port={} user=u_trust dbname=shop", busy.port());
    assert!(outcome(&info(&text)).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn chains_and_names_are_checked_when_asked() {
    let server = server();
    let right = format!("sslrootcert={}", server.file("roots.crt"));
    let wrong = format!("sslrootcert={}", server.file("root-other.crt"));
    let absent = "sslrootcert=/nonexistent/root.crt".to_owned();
    let none = String::new();
    let name = |host: &str, rest: String| {
        info(&format!(
            "host={host} hostaddr=127.0.0.1 port={} user=u_trust dbname=shop {rest}",
            server.port
        ))
    };
    for (mode, root, host, accepted) in [
        ("require", &none, "other.test", true),
        ("require", &right, "other.test", true),
        // A root file makes require check the chain, as in libpq.
        ("require", &wrong, "db.test", false),
        ("require", &absent, "db.test", true),
        ("verify-ca", &right, "other.test", true),
        ("verify-ca", &right, "127.0.0.1", true),
        ("verify-ca", &wrong, "db.test", false),
        ("verify-ca", &absent, "db.test", false),
        ("verify-ca", &none, "db.test", false),
        ("verify-full", &right, "db.test", true),
        ("verify-full", &right, "DB.test", true),
        ("verify-full", &right, "other.test", false),
        ("verify-full", &right, "127.0.0.1", false),
        ("verify-full", &wrong, "db.test", false),
        ("verify-full", &none, "db.test", false),
        ("verify-full", &"sslrootcert=system".to_owned(), "db.test", false),
    ] {
        let info = name(host, format!("sslmode={mode} {root}"));
        match outcome(&info).await {
            Ok(tls) => assert!(tls && accepted, "{mode} {root} {host}"),
            Err(error) => {
                assert!(!accepted, "{mode} {root} {host}: {error}");
                assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
                assert!(!error.is_transient(), "{error}");
            }
        }
    }
    // Nothing to compare the name with.
    let address_only = info(&format!(
        "hostaddr=127.0.0.1 port={} user=u_trust dbname=shop sslmode=verify-full {right}",
        server.port
    ));
    let error = outcome(&address_only).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Tls { source: TlsError::NoHostName, .. }), "{error}");
    // prefer falls back to plain if the certificate is not trusted, as in libpq.
    assert!(!outcome(&name("db.test", format!("sslmode=prefer {wrong}"))).await.unwrap());
}
