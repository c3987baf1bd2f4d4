//! A line to a server that is cut at one of our statements: what is left of a process that was killed
//! there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Where it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the server gets the statement.
    Unsent,
    /// When its answer comes.
    Unanswered,
}

/// Leads to a server until it is cut; then all of its connections are, and no other one comes.
pub struct Cut {
    pub port: u16,
    line: Arc<Line>,
}

struct Line {
    server: u16,
    moment: Moment,
    /// Statements that may still pass.
    left: AtomicUsize,
    is_cut: AtomicBool,
    cut: Notify,
}

impl Line {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// Waits for the cut.
    async fn wait(&self) {
        let cut = self.cut.notified();
        if !self.is_cut.load(Ordering::SeqCst) {
            cut.await;
        }
    }

    async fn lead(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.server)).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // Set when a statement was sent whose answer does not arrive.
        let last = AtomicBool::new(false);
        tokio::select! {
            () = self.wait() => {}
            () = self.statements(from_client, to_server, &last) => {}
            () = self.answers(from_server, to_client, &last) => {}
        }
    }

    async fn statements(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, last: &AtomicBool) {
        let mut packet = Vec::new();
        loop {
            let mut head = [0; 4];
            if from.read_exact(&mut head).await.is_err() {
                return;
            }
            let bytes = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
            packet.clear();
            packet.extend_from_slice(&head);
            packet.resize(4 + bytes, 0);
            if from.read_exact(&mut packet[4..]).await.is_err() {
                return;
            }
            // A statement (COM_QUERY) begins a new sequence of packets.
            if head[3] == 0 && packet.get(4) == Some(&3) {
                let left = self
                    .left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                match (left, self.moment) {
                    (Ok(_), _) => {}
                    (Err(_), Moment::Unsent) => return self.cut(),
                    (Err(_), Moment::Unanswered) => last.store(true, Ordering::SeqCst),
                }
            }
            if to.write_all(&packet).await.is_err() {
                return;
            }
        }
    }

    async fn answers(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, last: &AtomicBool) {
        let mut buffer = vec![0; 1 << 14];
        loop {
            let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
            if last.load(Ordering::SeqCst) {
                return self.cut();
            }
            if to.write_all(&buffer[..bytes]).await.is_err() {
                return;
            }
        }
    }
}

impl Cut {
    /// A line to this port that is cut at the statement behind the first `passing` ones.
    pub async fn after(passing: usize, moment: Moment, server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Arc::new(Line {
            server,
            moment,
            left: AtomicUsize::new(passing),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        });
        let leading = line.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if leading.is_cut.load(Ordering::SeqCst) {
                    return;
                }
                tokio::spawn(leading.clone().lead(client));
            }
        });
        Self { port, line }
    }

    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.line.is_cut.load(Ordering::SeqCst)
    }
}
