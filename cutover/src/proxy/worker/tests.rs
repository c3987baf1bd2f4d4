use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::proxy::opposite::{End, Opposite};
use crate::proxy::{Proxy, ProxyConfig};
use crate::side::Side;

/// Says every byte again, and has a defect.
struct Echo;

impl Engine for Echo {
    async fn serve(_: Arc<Shared<Self>>, mut stream: TcpStream, _: &Arrival) -> io::Result<()> {
        loop {
            let byte = stream.read_u8().await?;
            assert_ne!(byte, b'!', "a defect");
            stream.write_u8(byte).await?;
        }
    }

    fn too_many() -> Vec<u8> {
        b"too many".to_vec()
    }

    fn end(&self, _: Side) -> End {
        End::default()
    }

    fn servers(&self, _: Side) -> Vec<u32> {
        Vec::new()
    }

    fn begin_survey(&self) {}

    async fn server(&self, _: Side, _: tokio::time::Instant) -> Opposite {
        Opposite::default()
    }

    async fn refused(&self, _: Side, _: tokio::time::Instant) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn unasked(&self, _: Side, _: tokio::time::Instant) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_session_ends_only_that_session() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    config.threads = Some(1);
    config.clients_per_address_max = Some(2);
    let control = directory.path().join("proxy.sock");
    let proxy = Proxy::run(config, &control, Echo, None).await.unwrap();
    let connect = || TcpStream::connect(proxy.address());
    let says = async |stream: &mut TcpStream, byte: u8| {
        stream.write_u8(byte).await?;
        stream.read_u8().await
    };
    let mut other = connect().await.unwrap();
    assert_eq!(says(&mut other, b'a').await.unwrap(), b'a');
    // Nor does it count any more; it may for a moment.
    let served = async |byte: u8| loop {
        let mut stream = connect().await.unwrap();
        match says(&mut stream, byte).await {
            Ok(b't') => {}
            answer => return (stream, answer),
        }
    };
    for _ in 0..3 {
        assert!(served(b'!').await.1.is_err());
    }
    assert_eq!(says(&mut other, b'b').await.unwrap(), b'b');
    let (_third, answer) = served(b'c').await;
    assert_eq!(answer.unwrap(), b'c');
    let mut said = String::new();
    connect().await.unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "too many");
}

/// Set for a process of its own, which has limits of its own.
const ALONE: &str = "CUTOVER_TEST_DESCRIPTORS";

/// A proxy in a process of its own that may have so many descriptors, from its start or later.
struct Alone {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Alone {
    fn start(test: &str, at_start: usize, later: &str) -> Self {
        let name = format!("proxy::worker::tests::{test}");
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -n {at_start} && exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args([&name, "--exact", "--nocapture"])
            .env(ALONE, later)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it has not started");
            if let Some((_, address)) = line.trim_end().split_once("address ") {
                break address.parse().unwrap();
            }
        };
        Self { child, output, address }
    }

    /// Everything that is said to who says this.
    fn says(&self, byte: u8) -> (std::net::TcpStream, u8) {
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        // Whoever is refused may hear it before he has spoken.
        if let Err(error) = stream.write_all(&[byte]) {
            let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
            assert!(gone.contains(&error.kind()), "{error}");
        }
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("an answer, and no end without one");
        (stream, answer[0])
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.output.read_to_end(&mut Vec::new()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// In the process of its own, if this is it.
fn alone() -> bool {
    let Ok(later) = std::env::var(ALONE) else { return false };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    config.threads = Some(1);
    let control = directory.path().join("proxy.sock");
    let proxy = runtime.block_on(Proxy::run(config, &control, Echo, None)).unwrap();
    if let Ok(more) = later.parse::<u64>() {
        let open = std::fs::read_dir(Path::new("/proc/self/fd")).unwrap().count();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let soft = u64::try_from(open).unwrap() + more;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    }
    println!("address {}", proxy.address());
    // Until whoever has started this is done.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    true
}

#[test]
fn there_are_no_more_clients_than_descriptors_for_them() {
    if alone() {
        return;
    }
    let proxy =
        Alone::start("there_are_no_more_clients_than_descriptors_for_them", 160 + 3 * 20, "");
    // Twenty, half of them or half of those beyond while they log in.
    let mut served = Vec::new();
    loop {
        let (stream, answer) = proxy.says(b'a');
        if answer == b't' {
            break;
        }
        served.push(stream);
    }
    assert_eq!(served.len(), 10 + 32);
}

#[test]
fn who_comes_when_no_descriptor_is_left_is_told() {
    if alone() {
        return;
    }
    let proxy = Alone::start("who_comes_when_no_descriptor_is_left_is_told", 1_024, "6");
    let mut served = Vec::new();
    loop {
        let (stream, answer) = proxy.says(b'a');
        if answer == b't' {
            break;
        }
        served.push(stream);
    }
    assert!((1..=10).contains(&served.len()), "{}", served.len());
    // And again, and once there is room he is served.
    assert_eq!(proxy.says(b'a').1, b't');
    drop(served);
    while proxy.says(b'b').1 != b'b' {}
}
