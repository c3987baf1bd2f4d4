//! A client's session: waits while its hostgroup has no server, then is led to it until somebody ends it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire;
use super::world::{Server, World};

/// A session that is there ends when this is dropped.
struct Place<'a>(&'a World, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

/// From its first byte to its last.
pub(super) async fn lead(mut client: TcpStream, world: Arc<World>) {
    let (id, killed) = world.begin();
    let place = Place(&world, id);
    // How it ends is the two ends' business.
    tokio::select! {
        () = killed.notified() => {}
        _ = whole(&mut client, &world, id) => {}
    }
    drop(place);
}

async fn whole(client: &mut TcpStream, world: &World, id: u64) -> std::io::Result<()> {
    let patience = Duration::from_millis(world.patience_ms());
    let Ok(server) = tokio::time::timeout(patience, some_server(world, id)).await else {
        let text = format!(
            "Max connect timeout reached while reaching hostgroup after {}ms",
            patience.as_millis()
        );
        return wire::refuse(client, 9001, &text).await;
    };
    let mut upstream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = upstream.split();
    let there = async {
        let mut buffer = vec![0; 1 << 14];
        loop {
            let bytes = from_client.read(&mut buffer).await?;
            // A connection to a server that was taken out is dropped when it is used.
            if bytes == 0 || !world.may_go_on(id) {
                return Ok::<_, std::io::Error>(());
            }
            to_server.write_all(&buffer[..bytes]).await?;
        }
    };
    let back = async { tokio::io::copy(&mut from_server, &mut to_client).await.map(|_| ()) };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}

async fn some_server(world: &World, id: u64) -> Server {
    let mut changes = world.changes();
    loop {
        if let Some(server) = world.lead(id) {
            return server;
        }
        // The world is there as long as we are.
        drop(changes.changed().await);
    }
}
