//! Every authentication method over every transport.

use std::os::unix::fs::PermissionsExt;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::error::{AuthError, ConnectError};
use decoders::postgres::session;
use decoders::postgres::wire::ReplicationConnection;

use crate::server::{PASSWORD, info_with, server};

/// Connects both ways; true if both are encrypted.
async fn both(info: &ConnInfo) -> Result<bool, ConnectError> {
    let session = session::connect(info, "cutover test").await?;
    let row = session
        .query_one(
            "SELECT ssl, current_user::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, bool>(0), session.is_tls());
    assert_eq!(row.get::<_, String>(1), info.user());

    let mut wire = ReplicationConnection::connect(info, "cutover test").await?;
    assert_eq!(wire.server().is_tls, session.is_tls());
    let identity = wire.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(identity[0][3].as_deref(), Some(info.dbname()));
    assert_eq!(wire.server().version, session.server_version());
    Ok(session.is_tls())
}

async fn errors(info: &ConnInfo) -> [ConnectError; 2] {
    [
        session::connect(info, "cutover test").await.expect_err("a session"),
        ReplicationConnection::connect(info, "cutover test").await.expect_err("a connection"),
    ]
}

#[tokio::test]
async fn every_method_over_every_transport() {
    let server = server();
    for user in ["u_trust", "u_password", "u_md5", "u_scram"] {
        let rest = format!("user={user} dbname=shop password='{PASSWORD}'");
        for (info, tls) in [
            (server.socket(&rest), false),
            // Unix sockets ignore the sslmode, as in libpq.
            (server.socket(&format!("{rest} sslmode=require")), false),
            (server.tcp(&format!("{rest} sslmode=disable")), false),
            (server.tcp(&format!("{rest} sslmode=require")), true),
            (server.tcp(&format!("{rest} sslmode=require ssl_max_protocol_version=TLSv1.2")), true),
        ] {
            assert_eq!(both(&info).await.unwrap(), tls, "{info}");
        }
    }
}

#[tokio::test]
async fn required_channel_binding_is_used_or_refused() {
    let server = server();
    if server.major() < 11 {
        return; // no channel binding yet
    }
    let rest = format!("dbname=shop password='{PASSWORD}' channel_binding=require");
    let bound = server.tcp(&format!("user=u_scram sslmode=require {rest}"));
    assert!(both(&bound).await.unwrap());
    for refused in [
        server.tcp(&format!("user=u_scram sslmode=disable {rest}")),
        server.tcp(&format!("user=u_trust sslmode=require {rest}")),
        server.tcp(&format!("user=u_password sslmode=require {rest}")),
        server.tcp(&format!("user=u_md5 sslmode=require {rest}")),
        server.socket(&format!("user=u_scram {rest}")),
    ] {
        for error in errors(&refused).await {
            assert!(
                matches!(
                    error,
                    ConnectError::Authentication { reason: AuthError::NoChannelBinding, .. }
                ),
                "{refused}: {error}"
            );
            assert!(!error.is_transient());
        }
    }
    let unbound = format!("user=u_scram sslmode=require dbname=shop password='{PASSWORD}'");
    assert!(both(&server.tcp(&format!("{unbound} channel_binding=disable"))).await.unwrap());
}

/// The hash of the binding follows the certificate's signature, and a self-signed certificate is
/// accepted if it is listed as its own root.
#[tokio::test]
async fn channel_binding_with_each_kind_of_certificate() {
    let server = server();
    if server.major() < 11 {
        return; // no channel binding yet
    }
    let superuser =
        session::connect(&server.socket("user=postgres dbname=postgres"), "").await.unwrap();
    for name in ["p256", "self", "p384"] {
        for (setting, suffix) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            let file = server.file(&format!("server-{name}.{suffix}"));
            let sql = format!("ALTER SYSTEM SET {setting} = '{file}'");
            superuser.batch_execute(&sql).await.unwrap();
        }
        superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let info = server.tcp(&format!(
            "user=u_scram dbname=shop password='{PASSWORD}' channel_binding=require \
             sslmode=verify-full sslrootcert={}",
            server.file(&format!("root-{name}.crt"))
        ));
        // The reload is asynchronous: only a server that shows the new certificate passes.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match both(&info).await {
                Ok(tls) => break assert!(tls),
                Err(error @ ConnectError::Tls { .. }) => {
                    assert!(tokio::time::Instant::now() < deadline, "{name}: {error}");
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_definite_and_stays_secret() {
    let server = server();
    let secret = "hunter2-secret";
    for user in ["u_password", "u_md5", "u_scram"] {
        for mode in ["disable", "prefer", "require"] {
            let info =
                server.tcp(&format!("user={user} dbname=shop sslmode={mode} password={secret}"));
            assert!(!format!("{info} {info:?}").contains(secret));
            for error in errors(&info).await {
                let text = format!("{error} {error:?}");
                assert!(!text.contains(secret), "{text}");
                assert!(text.contains(user) && text.contains("db.test"), "{text}");
                assert!(!error.is_transient(), "{text}");
                assert_eq!(error.server_error().unwrap().sqlstate, "28P01");
            }
        }
    }
}

#[tokio::test]
async fn a_missing_password_or_database_is_definite() {
    let server = server();
    for user in ["u_password", "u_md5", "u_scram"] {
        let info = server.tcp(&format!("user={user} dbname=shop"));
        for error in errors(&info).await {
            assert!(
                matches!(error, ConnectError::Authentication { reason: AuthError::NoPassword, .. }),
                "{error}"
            );
            assert!(!error.is_transient());
        }
    }
    let info = server.tcp(&format!("user=u_scram dbname=missing password='{PASSWORD}'"));
    for error in errors(&info).await {
        assert_eq!(error.server_error().unwrap().sqlstate, "3D000", "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn passwords_come_from_the_environment_or_the_password_file() {
    let server = server();
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = format!("db.test:{}:shop:u_scram:{PASSWORD}\n", server.port);
    std::fs::write(file.path(), format!("*:*:other:*:wrong\n{line}")).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = file.path().to_str().unwrap();
    let text = server.tcp_text("user=u_scram dbname=shop");
    both(&info_with(&text, &[("PGPASSFILE", path)])).await.unwrap();
    both(&info_with(&text, &[("PGPASSWORD", PASSWORD), ("PGPASSFILE", "/nonexistent")]))
        .await
        .unwrap();
    // What is nearer wins.
    let explicit = format!("{text} password=wrong");
    errors(&info_with(&explicit, &[("PGPASSWORD", PASSWORD)])).await;

    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    for error in errors(&info_with(&text, &[("PGPASSFILE", path)])).await {
        assert!(error.to_string().contains("PGPASSFILE"), "{error}");
    }
}

#[tokio::test]
async fn client_certificates() {
    let server = server();
    let text = server.tcp_text("user=u_cert dbname=shop sslmode=require");
    let certificate = server.file("client.crt");
    let key = server.file("client.key");
    let info = info_with(&text, &[("PGSSLCERT", &certificate), ("PGSSLKEY", &key)]);
    assert!(both(&info).await.unwrap());
    for error in errors(&info_with(&text, &[])).await {
        assert!(!error.is_transient(), "{error}");
    }

    let exposed = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(&key, exposed.path()).unwrap();
    std::fs::set_permissions(exposed.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = exposed.path().to_str().unwrap();
    let info = info_with(&text, &[("PGSSLCERT", &certificate), ("PGSSLKEY", exposed)]);
    for error in errors(&info).await {
        assert!(error.to_string().contains("group or others have access"), "{error}");
    }
}
