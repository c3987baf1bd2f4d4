//! Logins without a database by TLS, and databases that are chosen later.

use cutover::Side;
use cutover::proxy::{ProxyConfig, ProxyTls};
use decoders::mysql::server::ServerUrl;
use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn, Opts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy::{MYSQL, Stage, code, port_of, sites, text};
use super::support::{Site, Version, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_a_database_by_tls_on_mysql() {
    a_login_without_a_database_by_tls(MYSQL).await;
}

/// Of the versions here only this one offers TLS without being told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_a_database_by_tls_on_mariadb() {
    a_login_without_a_database_by_tls((Version::Mariadb11_8, Version::Mariadb11_8)).await;
}

async fn a_login_without_a_database_by_tls(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    for site in [&blue, &green] {
        site.server.run("CREATE USER free IDENTIFIED BY ''; GRANT ALL ON shop.* TO free").unwrap();
    }
    let secure = |site: &Site| {
        let port = site.server.port();
        let url = format!("mysql://mover:m@127.0.0.1:{port}/shop?ssl-mode=required");
        ServerUrl::parse(&url).unwrap()
    };
    let stage = Stage::start(&secure(&blue), &secure(&green)).await;
    let without = Opts::from(stage.options("app", "a").db_name(None::<String>));
    let mut later = Conn::new(without.clone()).await.unwrap();
    later.query_drop("USE shop").await.unwrap();
    let mut none = Conn::new(without).await.unwrap();
    let mut left = stage.client().await;
    let change = ChangeUserOpts::default().with_db_name(None);
    left.change_user(change).await.unwrap();
    assert!(promises_a_database(stage.port).await);
    stage.turn(Side::Green).await;
    for (client, schema) in [(&mut later, "shop"), (&mut none, ""), (&mut left, "")] {
        assert_eq!(port_of(client).await, green.server.port());
        assert_eq!(text(client, "SELECT database()").await, schema);
    }
    assert_eq!((stage.status().await.moved, stage.status().await.cut), (3, 0));
    // A server that is lost without a word is noticed.
    let port = green.server.port();
    until("all are kept alive", async || {
        let timers = timers_to(port);
        timers.len() >= 3 && timers.iter().all(|timer| timer == "02")
    })
    .await;
}

/// The timer of each established connection to this port: `02` is keepalive
/// (Documentation/networking/proc_net_tcp.rst).
fn timers_to(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let remote = format!(":{port:04X}");
    rows.filter(|row| row[2].ends_with(&remote) && row[3] == "01")
        .map(|row| row[5][..2].to_owned())
        .collect()
}

/// Whether a client gets in that says that it names a database, and then names none.
async fn promises_a_database(port: u16) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let packet = async |stream: &mut TcpStream| {
        let length = stream.read_u24_le().await;
        let _number = stream.read_u8().await.unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        body
    };
    packet(&mut stream).await;
    // MYSQL, CONNECT_WITH_DB, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
    let caps: u32 = 1 | 1 << 3 | 1 << 9 | 1 << 15 | 1 << 19;
    let mut body = caps.to_le_bytes().to_vec();
    body.extend_from_slice(&(1_u32 << 24).to_le_bytes());
    body.push(45);
    body.resize(32, 0);
    body.extend_from_slice(b"free\0\0\0mysql_native_password\0");
    let mut out = u32::try_from(body.len()).unwrap().to_le_bytes();
    out[3] = 1;
    stream.write_all(&[&out[..], &body].concat()).await.unwrap();
    let mut answer = packet(&mut stream).await;
    // Another kind of login: the answer for no password is empty in each.
    if answer[0] == 0xfe {
        stream.write_all(&[0, 0, 0, 3]).await.unwrap();
        answer = packet(&mut stream).await;
    }
    assert_eq!(answer[0], 0, "{}", String::from_utf8_lossy(&answer));
    true
}

trait ReadU24 {
    async fn read_u24_le(&mut self) -> usize;
}

impl ReadU24 for TcpStream {
    async fn read_u24_le(&mut self) -> usize {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes[..3]).await.unwrap();
        usize::try_from(u32::from_le_bytes(bytes)).unwrap()
    }
}

/// A password that a server asks for is shown to none that anybody could be. `0.0.0.0` leads here, and
/// is no address of this host by name.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_shown_to_a_verified_server_only() {
    let (blue, green) = sites(MYSQL).await;
    let unverified = |site: &Site| {
        let port = site.server.port();
        let url = format!("mysql://mover:m@0.0.0.0:{port}/shop?ssl-mode=required");
        ServerUrl::parse(&url).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    let tls = ProxyTls { certificate: path("crt"), key: path("key"), required: true };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    config.tls = Some(tls);
    let stage = Stage::with(config, &unverified(&blue), &unverified(&green)).await;
    // Nor does a client come without TLS, if it has to come by that.
    assert_eq!(code(stage.log_in("app", "a", false).await), 3159);
    // The server has not seen this account yet, so an answer to its nonce is not enough.
    let Err(mysql_async::Error::Server(refused)) = stage.log_in("app", "a", true).await else {
        panic!("it was let in")
    };
    assert_eq!(refused.code, 1045);
    assert!(refused.message.contains("ssl-mode=VERIFY_CA"), "{refused}");
    // Once it has, nothing needs to be shown.
    super::support::open(&blue.app()).await;
    stage.log_in("app", "a", true).await.unwrap();
}
