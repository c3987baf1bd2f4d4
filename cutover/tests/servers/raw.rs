//! A client that says exactly what a test wants it to, message by message.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Logged in as `postgres` on database `shop`.
pub(super) struct Raw(TcpStream);

impl Raw {
    pub async fn open(port: u16) -> Self {
        Self::open_with(port, &[]).await
    }

    /// With these bytes right behind the startup packet.
    pub async fn open_with(port: u16, early: &[u8]) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let packet = [&startup("")[..], early].concat();
        stream.write_all(&packet).await.unwrap();
        let mut client = Self(stream);
        client.until(b'Z').await;
        client
    }

    /// As a client of replication.
    pub async fn open_replication(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(&startup("replication\0database\0")).await.unwrap();
        let mut client = Self(stream);
        client.until(b'Z').await;
        client
    }

    /// Waits for the connection's end, whichever way it ends; what comes before is passed over.
    pub async fn ended(&mut self) {
        let mut rest = Vec::new();
        while matches!(self.0.read_buf(&mut rest).await, Ok(1..)) {}
    }

    /// Sends messages: a type and a body each.
    pub async fn send(&mut self, messages: &[(u8, &[u8])]) {
        self.0.write_all(&bytes(messages)).await.unwrap();
    }

    /// The types of the messages up to one of type `last`.
    pub async fn until(&mut self, last: u8) -> Vec<u8> {
        self.until_any(&[last]).await
    }

    /// The same up to one of any of these types.
    pub async fn until_any(&mut self, last: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        loop {
            let tag = self.0.read_u8().await.expect("the connection was closed");
            let length = self.0.read_i32().await.unwrap();
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.0.read_exact(&mut body).await.unwrap();
            seen.push(tag);
            if last.contains(&tag) {
                return seen;
            }
        }
    }
}

/// A startup packet of `postgres` for database `shop`, with these parameters more.
pub(super) fn startup(more: &str) -> Vec<u8> {
    let parameters = format!("\0\x03\0\0user\0postgres\0database\0shop\0{more}\0");
    let length = u32::try_from(parameters.len() + 4).unwrap();
    [&length.to_be_bytes()[..], parameters.as_bytes()].concat()
}

/// Messages as they travel.
pub(super) fn bytes(messages: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, body) in messages {
        out.push(*tag);
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
    }
    out
}
