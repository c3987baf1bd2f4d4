//! Peers that misbehave: between us and the server, or instead of it.

use std::net::SocketAddr;

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Accepts and never says a word.
pub async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    address
}

/// Answers the TLS request with `answer`, then passes everything on to the server.
pub async fn without_tls(server_port: u16, answer: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await?;
                client.write_all(&[answer]).await?;
                let mut server = TcpStream::connect(("127.0.0.1", server_port)).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

/// Passes everything on until it is told to vanish; from then on its host answers nothing, not
/// even at the TCP level: a socket filter drops every packet before it is acknowledged.
pub struct Vanishing {
    pub address: SocketAddr,
    gone: watch::Sender<bool>,
    filtered: watch::Receiver<u32>,
}

impl Vanishing {
    pub async fn start(server_port: u16) -> Vanishing {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gone, told) = watch::channel(false);
        let (count, filtered) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut told = told.clone();
                let count = count.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => return,
                        _ = told.wait_for(|gone| *gone) => {}
                    }
                    // BPF_RET 0: keep 0 bytes of each packet.
                    let drop_all = SockFilter::new(0x06, 0, 0, 0);
                    SockRef::from(&client).attach_filter(&[drop_all]).unwrap();
                    count.send_modify(|count| *count += 1);
                    std::future::pending::<()>().await;
                });
            }
        });
        Vanishing { address, gone, filtered }
    }

    /// Returns once `connections` of them are deaf.
    pub async fn vanish(&self, connections: u32) {
        self.gone.send_replace(true);
        let mut filtered = self.filtered.clone();
        filtered.wait_for(|count| *count >= connections).await.unwrap();
    }
}

/// Says `script` to everyone who has sent something, whatever it was, and closes.
pub async fn scripted(script: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                let mut request = [0; 4];
                client.read_exact(&mut request).await?;
                client.write_all(&script).await?;
                client.shutdown().await?;
                // Unread input would turn the close into a reset that overtakes the script.
                tokio::io::copy(&mut client, &mut tokio::io::sink()).await
            });
        }
    });
    address
}
