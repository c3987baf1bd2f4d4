//! Who is let in: how many, how soon, and by which kind of connection.

use std::net::SocketAddr;
use std::sync::Arc;

use cutover::proxy::{ProxyConfig, ProxyTls};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy::Stage;
use super::raw::startup;
use super::support::{Postgres, number, until};

/// Two databases of one server: nobody is moved here.
async fn stage(config: ProxyConfig) -> (Postgres, Stage) {
    let server = Postgres::start().await;
    let (blue, green) = (server.database("shop", "").await, server.database("other", "").await);
    let stage = Stage::with(config, &blue, &green).await;
    (server, stage)
}

fn config() -> ProxyConfig {
    ProxyConfig::new("127.0.0.1:0".parse().unwrap())
}

async fn connect(from: &str, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
}

/// Everything that is said until the end.
async fn said(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_takes_nobody_s_place() {
    let mut config = config();
    config.clients_max = 2;
    let (_server, stage) = stage(config).await;
    let mut silent = Vec::new();
    // Half of the clients, and half of what may be open beyond.
    for _ in 0..33 {
        silent.push(connect("127.0.0.1", stage.port).await);
    }
    let refused = said(connect("127.0.0.1", stage.port).await).await;
    assert!(refused.contains("53300"), "{refused:?}");
    // Another address is served all the same.
    let mut client = connect("127.0.0.2", stage.port).await;
    client.write_all(&startup("")).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'R');
    assert_eq!(stage.status().await.clients, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_has_to_come_to_an_end() {
    let mut config = config();
    config.login_timeout_ms = 300;
    let (server, stage) = stage(config).await;
    let silent = connect("127.0.0.1", stage.port).await;
    assert_eq!(said(silent).await, "");
    // Who is asked for a password and does not answer is told.
    server.ask_for_passwords().await;
    let mut slow = connect("127.0.0.1", stage.port).await;
    let packet = String::from_utf8(startup("")).unwrap().replace("postgres", "somebody");
    slow.write_all(packet.as_bytes()).await.unwrap();
    let told = said(slow).await;
    assert!(told.contains("57014"), "{told:?}");
}

/// The timer of each established connection with this local port: `02` is keepalive
/// (Documentation/networking/proc_net_tcp.rst).
fn timers(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let local = format!(":{port:04X}");
    rows.filter(|row| row[1].ends_with(&local) && row[3] == "01")
        .map(|row| row[5][..2].to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_lost_without_a_word_is_asked_for() {
    let (_server, stage) = stage(config()).await;
    let client = stage.client().await;
    assert_eq!(number(&client, "SELECT 1").await, 1);
    // Until the last answer is acknowledged another timer runs.
    until("it is kept alive", || async { timers(stage.port) == ["02"] }).await;
}

struct Certificate {
    files: ProxyTls,
    directory: tempfile::TempDir,
}

impl Certificate {
    fn new() -> (Self, CertificateDer<'static>) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let files = ProxyTls { certificate: path("crt"), key: path("key"), required: true };
        let this = Self { files, directory };
        let made = this.renew();
        (this, made)
    }

    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&self.files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&self.files.key, made.signing_key.serialize_pem()).unwrap();
        assert!(self.directory.path().exists());
        made.cert.der().clone()
    }
}

/// By TLS with this certificate, at once or asked for before.
async fn secure(
    port: u16,
    certificate: &CertificateDer<'static>,
    protocol: Option<&[u8]>,
    asks: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocol.iter().map(|name| name.to_vec()).collect();
    let mut stream = connect("127.0.0.1", port).await;
    if asks {
        stream.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]).await?;
        assert_eq!(stream.read_u8().await?, b'S');
    }
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Logs in, which is over with ReadyForQuery.
async fn log_in(stream: &mut TlsStream<TcpStream>) -> bool {
    if stream.write_all(&startup("")).await.is_err() {
        return false;
    }
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"Z\0\0\0\x05I") {
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return false,
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_by_tls_of_either_kind() {
    let (certificate, first) = Certificate::new();
    let mut config = config();
    config.tls = Some(certificate.files.clone());
    let (_server, stage) = stage(config).await;
    // Without it nobody comes in.
    let mut plain = connect("127.0.0.1", stage.port).await;
    plain.write_all(&startup("")).await.unwrap();
    let refused = said(plain).await;
    assert!(refused.contains("28000") && refused.contains("TLS"), "{refused:?}");
    // Asked for, or begun at once, as `sslnegotiation=direct` does; the latter says what for.
    let mut before = secure(stage.port, &first, None, true).await.unwrap();
    assert!(log_in(&mut before).await);
    let mut direct = secure(stage.port, &first, Some(b"postgresql"), false).await.unwrap();
    assert!(log_in(&mut direct).await);
    assert!(match secure(stage.port, &first, None, false).await {
        Ok(mut nameless) => !log_in(&mut nameless).await,
        Err(_) => true,
    });
    // A cancel request ends as TLS ends.
    let mut cancel = secure(stage.port, &first, None, true).await.unwrap();
    let request = [0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 0, 0, 0, 2];
    cancel.write_all(&request).await.unwrap();
    assert_eq!(cancel.read(&mut [0]).await.expect("close_notify"), 0);
    // A new certificate is for those who come, and those who are there stay.
    let second = certificate.renew();
    assert!(secure(stage.port, &first, None, true).await.is_err());
    assert!(log_in(&mut secure(stage.port, &second, None, true).await.unwrap()).await);
    before.write_all(b"Q\0\0\0\x0dSELECT 7\0").await.unwrap();
    assert_eq!(before.read_u8().await.unwrap(), b'T');
}
