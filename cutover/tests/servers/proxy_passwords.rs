//! Logins by SCRAM with TLS on both legs, which the proxy checks itself.

use cutover::Side;
use cutover::proxy::{ProxyConfig, ProxyTls};

use super::proxy::{Stage, WHERE, pair};
use super::support::{Login, number, until};
use decoders::postgres::session::connect_plain;

/// SQLSTATE of a refusal. An end of the connection without one is none.
async fn refusal(login: &Login) -> String {
    match connect_plain(&login.info(), "app").await {
        Ok(_) => "let in".to_owned(),
        Err(error) => error.server_error().map_or(error.to_string(), |said| said.sqlstate.clone()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_good_at_once_wherever_it_was_set() {
    let (blue_server, green_server, blue, green) = pair().await;
    for server in [&blue_server, &green_server] {
        server.use_tls().await;
        server.ask_for_passwords().await;
        // The same password, and another salt on each side.
        let admin = server.info("shop").open().await;
        let role =
            "SET password_encryption = 'scram-sha-256'; CREATE ROLE app LOGIN PASSWORD 'old'";
        admin.batch_execute(role).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let tls = ProxyTls {
        certificate: directory.path().join("certificate"),
        key: directory.path().join("key"),
        required: false,
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    config.tls = Some(tls);
    let secure = |login: &Login| Login(login.0.replace("sslmode=disable", "sslmode=require"));
    let stage = Stage::with(config, &secure(&blue), &secure(&green)).await;
    let as_app = |password: &str| secure(&stage.login(&format!("app:{password}")));
    let (old, new) = (as_app("old"), as_app("new"));

    let client = old.open().await;
    stage.turn(Side::Green).await;
    until("it is cut", || async { client.closed_reason().is_some() }).await;
    assert_eq!(number(&old.open().await, WHERE).await, i64::from(green_server.port));
    stage.turn(Side::Blue).await;
    assert_eq!(number(&old.open().await, WHERE).await, i64::from(blue_server.port));

    let admin = blue.open().await;
    assert_eq!(refusal(&new).await, "28P01");
    admin.batch_execute("ALTER ROLE app PASSWORD 'new'").await.unwrap();
    assert_eq!(number(&new.open().await, WHERE).await, i64::from(blue_server.port));
    assert_eq!(refusal(&old).await, "28P01");
    // The server has the last word.
    admin.batch_execute("ALTER ROLE app VALID UNTIL '2000-01-01'").await.unwrap();
    assert_eq!(refusal(&new).await, "28P01");
    admin.batch_execute("ALTER ROLE app VALID UNTIL 'infinity' NOLOGIN").await.unwrap();
    assert_eq!(refusal(&new).await, "28000");
}
