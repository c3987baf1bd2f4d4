//! The stats socket: a command a connection, the answer up to the end of the stream.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// The longest answer that is read: `show servers state` has a line for each server.
const ANSWER_MAX: u64 = 1 << 20;

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StatsSocket {
    Path(PathBuf),
    /// `host:port`.
    Address(String),
}

impl StatsSocket {
    /// A path if there is a slash in it, `host:port` otherwise.
    pub fn parse(text: &str) -> Self {
        match text.contains('/') {
            true => StatsSocket::Path(text.into()),
            false => StatsSocket::Address(text.into()),
        }
    }

    /// One command and its answer, without blank lines around it.
    pub async fn ask(&self, command: &str) -> io::Result<String> {
        match self {
            StatsSocket::Path(path) => converse(UnixStream::connect(path).await?, command).await,
            StatsSocket::Address(at) => converse(TcpStream::connect(at).await?, command).await,
        }
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    command: &str,
) -> io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    Ok(answer.trim_matches(['\n', '\r', ' ']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_a_path() {
        assert_eq!(
            StatsSocket::parse("/run/haproxy.sock"),
            StatsSocket::Path("/run/haproxy.sock".into())
        );
        assert_eq!(StatsSocket::parse("[::1]:9999"), StatsSocket::Address("[::1]:9999".into()));
    }
}
