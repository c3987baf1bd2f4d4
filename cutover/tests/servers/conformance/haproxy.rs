//! An HAProxy of our own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use decoders::mysql::server::is_mysql_url;
use tempfile::TempDir;

use super::super::support::{Login, free_port};
use super::{Ends, mysql_client};

/// A process with one backend `shop`, in which `green` is disabled.
pub(super) struct HaProxy {
    child: Child,
    directory: TempDir,
    port: u16,
    client: Login,
}

impl HaProxy {
    pub fn start(ends: &Ends) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let [blue, green] = ends.ports;
        let text = format!(
            "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\nfrontend clients\n  bind 127.0.0.1:{port}\n  \
             default_backend shop\nbackend shop\n  server blue 127.0.0.1:{blue}\n  \
             server green 127.0.0.1:{green} disabled\n",
            directory.path().join("admin.sock").display(),
        );
        std::fs::write(directory.path().join("haproxy.cfg"), text).unwrap();
        let client = match is_mysql_url(&ends.blue.0) {
            true => mysql_client(port),
            false => Login(format!("postgresql://postgres@127.0.0.1:{port}/shop?sslmode=disable")),
        };
        Self { child: spawn(&directory, port), directory, port, client }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    pub fn client(&self) -> Login {
        self.client.clone()
    }

    /// What the operator writes about it.
    pub fn config(&self) -> String {
        format!(
            "[[haproxy]]\nsocket = {:?}\nbackend = \"shop\"\nblue = \"blue\"\ngreen = \"green\"\n\
             client = {:?}\n",
            self.socket(),
            self.client().0
        )
    }

    /// A command on its socket.
    pub fn tell(&self, command: &str) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.contains("No such") && !answer.contains("Unknown"), "{command}: {answer}");
    }

    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.directory, self.port);
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn spawn(directory: &TempDir, port: u16) -> Child {
    let mut child = Command::new("/usr/sbin/haproxy")
        .args(["-db", "-f"])
        .arg(directory.path().join("haproxy.cfg"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("HAProxy is missing: run scripts/setup");
    let began = Instant::now();
    // The stats socket gets its name after the port listens.
    let socket = directory.path().join("admin.sock");
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
        || std::os::unix::net::UnixStream::connect(&socket).is_err()
    {
        assert!(child.try_wait().unwrap().is_none(), "HAProxy has ended");
        assert!(began.elapsed() < Duration::from_secs(30), "HAProxy does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}
