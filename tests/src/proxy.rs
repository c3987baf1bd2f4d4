//! A TCP proxy on loopback whose network can be broken at run time.
//!
//! It has a thread and a runtime of its own: a test that blocks cannot slow it down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does to every connection, present and future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It works.
    Pass,
    /// Connections are closed, new ones too, as soon as they are accepted.
    Cut,
    /// Half open: sockets stay open and nothing arrives any more, as behind a firewall that drops.
    /// New connections are accepted and hear nothing.
    Freeze,
    /// Every read is handed on this much later.
    Delay(Duration),
}

/// A proxy to one address. Dropping it closes all of its connections.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    mode: watch::Sender<Mode>,
    open: Arc<AtomicUsize>,
}

impl FaultProxy {
    /// Starts one in front of a port of loopback.
    pub fn start(target_port: u16) -> Result<FaultProxy> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let target = SocketAddr::from(([127, 0, 0, 1], target_port));
        let (mode, modes) = watch::channel(Mode::Pass);
        let open = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&open);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => accept(listener, target, modes, counter).await,
                    Err(error) => eprintln!("the fault proxy cannot listen: {error}"),
                }
            });
        });
        Ok(FaultProxy { port, mode, open })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many client connections are open now.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// A server's URL with the proxy's port in place of its own.
    pub fn url(&self, url: &str, server_port: u16) -> String {
        url.replace(&format!(":{server_port}/"), &format!(":{}/", self.port))
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
    open: Arc<AtomicUsize>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The proxy was dropped; its connections see the same and end.
            gone = modes.wait_for(|_| false) => { drop(gone); return }
        };
        let Ok((client, _)) = accepted else { continue };
        let modes = modes.clone();
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::SeqCst);
            // How a connection ends is the business of the two ends.
            drop(connection(client, target, modes).await);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn connection(
    client: TcpStream,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
) -> std::io::Result<()> {
    if *modes.borrow() == Mode::Cut {
        return Ok(());
    }
    // A frozen network does not even reach the server.
    if modes.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
        return Ok(());
    }
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let up = copy(client_in, server_out, modes.clone());
    let down = copy(server_in, client_out, modes.clone());
    let cut = async { drop(modes.wait_for(|mode| *mode == Mode::Cut).await) };
    tokio::select! {
        both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
        () = cut => Ok(()),
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        // What is read while frozen is held back until the network works again, ends included.
        if modes.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
            return Ok(());
        }
        let mode = *modes.borrow();
        if let Mode::Delay(delay) = mode {
            tokio::time::sleep(delay).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}
