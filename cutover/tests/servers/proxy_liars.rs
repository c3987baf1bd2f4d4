//! Somebody answers in the server's place, and asks for the password.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cutover::Side;
use cutover::proxy::ProxyConfig;
use decoders::postgres::session::connect_plain;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::proxy::{Stage, WHERE};
use super::raw::{bytes, startup};
use super::support::{Login, Postgres, number, until};

const SECRET: &str = "s3same";
/// AuthenticationCleartextPassword.
const PASSWORD: &[u8] = &[0, 0, 0, 3];
/// AuthenticationSASL with one mechanism, which shows a token.
const TOKEN: &[u8] = b"\0\0\0\x0aOAUTHBEARER\0\0";

/// It asks everybody, keeps what it hears, and lets nobody in. By TLS where that is asked for.
struct Liar {
    port: u16,
    certificate: PathBuf,
    heard: Arc<Mutex<Vec<u8>>>,
    _directory: TempDir,
}

impl Liar {
    async fn start(asks: &'static [u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificate = directory.path().join("root.crt");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::default();
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, heard) = (acceptor.clone(), Arc::clone(&hears));
                tokio::spawn(async move {
                    // However a connection ends, what was heard on it is kept.
                    drop(answer(stream, &acceptor, asks, &heard).await);
                });
            }
        });
        Self { port, certificate, heard, _directory: directory }
    }

    /// `0.0.0.0` leads here, and is no address of this host by name.
    fn login(&self, host: &str, parameters: &str) -> Login {
        Login(format!("postgresql://mover@{host}:{}/shop?{parameters}", self.port))
    }

    /// Whether it was told the secret since it was last asked.
    fn was_told(&self) -> bool {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        heard.windows(SECRET.len()).any(|part| part == SECRET.as_bytes())
    }
}

async fn answer(
    mut stream: TcpStream,
    acceptor: &TlsAcceptor,
    asks: &[u8],
    heard: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let packet = packet(&mut stream).await?;
    // SSLRequest.
    if packet != [4, 0xd2, 0x16, 0x2f] {
        return ask(stream, asks, heard).await;
    }
    stream.write_all(b"S").await?;
    let mut stream = acceptor.accept(stream).await?;
    self::packet(&mut stream).await?;
    ask(stream, asks, heard).await
}

async fn packet(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    asks: &[u8],
    heard: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    stream.write_all(&bytes(&[(b'R', asks)])).await?;
    stream.flush().await?;
    stream.read_u8().await?;
    let answer = packet(&mut stream).await?;
    heard.lock().unwrap().extend(answer);
    let refusal = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0";
    stream.write_all(&bytes(&[(b'E', refusal)])).await?;
    stream.flush().await?;
    stream.shutdown().await
}

/// What a client with the password is told.
async fn refusal(stage: &Stage) -> (String, String) {
    let login = stage.login(&format!("app:{SECRET}"));
    let Err(error) = connect_plain(&login.info(), "app").await else { panic!("it was let in") };
    let said = error.server_error().expect("it was told why").clone();
    (said.sqlstate, error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_shown_to_a_verified_server_only() {
    let liar = Liar::start(PASSWORD).await;
    let root = format!("sslrootcert={}", liar.certificate.display());
    let refused = ["sslmode=disable", "sslmode=prefer", "sslmode=require"];
    for parameters in refused {
        let login = liar.login("0.0.0.0", parameters);
        let stage = Stage::start(&login, &login).await;
        let (sqlstate, said) = refusal(&stage).await;
        assert_eq!(sqlstate, "28000", "{parameters}: {said}");
        assert!(said.contains("nobody has verified that it is the server"), "{said}");
        assert!(!liar.was_told(), "{parameters}");
    }
    // Whoever is verified, or is this host, is the server as far as anybody can know.
    let verified = [
        ("0.0.0.0", format!("sslmode=require&{root}")),
        ("0.0.0.0", format!("sslmode=verify-ca&{root}")),
        ("127.0.0.1", "sslmode=disable".to_owned()),
    ];
    for (host, parameters) in verified {
        let login = liar.login(host, &parameters);
        let stage = Stage::start(&login, &login).await;
        let (sqlstate, said) = refusal(&stage).await;
        assert_eq!(sqlstate, "28P01", "{host} {parameters}: {said}");
        assert!(liar.was_told(), "{host} {parameters}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_asked_for_by_a_server_that_nobody_has_verified() {
    let liar = Liar::start(TOKEN).await;
    for (host, first) in [("0.0.0.0", b'E'), ("127.0.0.1", b'R')] {
        let login = liar.login(host, "sslmode=disable");
        let stage = Stage::start(&login, &login).await;
        let mut client = TcpStream::connect(("127.0.0.1", stage.port)).await.unwrap();
        client.write_all(&startup("")).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), first, "{host}");
    }
}

/// The proxy logs in itself, with a password of the users file, to move a session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_moved_takes_no_password_to_a_liar() {
    let server = Postgres::start().await;
    let blue = server.database("shop", "").await;
    let liar = Liar::start(PASSWORD).await;
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, format!("\"postgres\" \"{SECRET}\"\n")).unwrap();
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (host, is_told) in [("0.0.0.0", false), ("127.0.0.1", true)] {
        let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
        config.users_file = Some(users.clone());
        let stage = Stage::with(config, &blue, &liar.login(host, "sslmode=disable")).await;
        let client = stage.client().await;
        assert_eq!(number(&client, WHERE).await, i64::from(server.port));
        stage.turn(Side::Green).await;
        until("it is cut", || async { client.closed_reason().is_some() }).await;
        assert_eq!(liar.was_told(), is_told, "{host}");
    }
}
