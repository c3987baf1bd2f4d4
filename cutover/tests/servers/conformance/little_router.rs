//! A small router of the operator's own: TCP, makes new clients wait, cuts the others. Orders are
//! lines over a port: `hold`, `route PORT`, `release`, `where`.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::super::support::{Login, free_port};

/// What it knows.
#[derive(Debug, Clone, Copy)]
struct State {
    held: bool,
    to: u16,
}

/// It runs in this process; where it leads is kept when it dies.
pub(super) struct LittleRouter {
    port: u16,
    orders: u16,
    kept: Arc<Mutex<u16>>,
    serving: Option<JoinHandle<()>>,
}

impl LittleRouter {
    pub async fn start(to: u16) -> Self {
        let kept = Arc::new(Mutex::new(to));
        let mut router = Self { port: free_port(), orders: free_port(), kept, serving: None };
        router.serve().await;
        router
    }

    async fn serve(&mut self) {
        let clients = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let orders = TcpListener::bind(("127.0.0.1", self.orders)).await.unwrap();
        let state = State { held: false, to: *self.kept.lock().unwrap() };
        let state = Arc::new(watch::Sender::new(state));
        self.serving = Some(tokio::spawn(run(clients, orders, state, self.kept.clone())));
    }

    pub async fn crash(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            assert!(serving.await.unwrap_err().is_cancelled());
        }
        self.serve().await;
    }

    pub fn client(&self) -> Login {
        Login(format!("postgresql://postgres@127.0.0.1:{}/shop?sslmode=disable", self.port))
    }

    /// The port that orders are sent to.
    pub fn orders(&self) -> u16 {
        self.orders
    }
}

/// Gives an order and returns the answer.
pub(super) async fn tell(orders: u16, order: &str) -> std::io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", orders)).await?);
    stream.write_all(format!("{order}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.trim().to_owned())
}

async fn run(
    clients: TcpListener,
    orders: TcpListener,
    state: Arc<watch::Sender<State>>,
    kept: Arc<Mutex<u16>>,
) {
    // All of them die with this future.
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            client = clients.accept() => {
                tasks.spawn(serve(client.unwrap().0, state.subscribe()));
            }
            order = orders.accept() => {
                tasks.spawn(obey(order.unwrap().0, state.clone(), kept.clone()));
            }
        }
    }
}

async fn serve(mut client: TcpStream, mut state: watch::Receiver<State>) {
    let to = state.wait_for(|state| !state.held).await.unwrap().to;
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    tokio::select! {
        // How it ends is the two ends' business.
        _ = copy_bidirectional(&mut client, &mut server) => {}
        held = state.wait_for(|state| state.held) => drop(held),
    }
}

async fn obey(stream: TcpStream, state: Arc<watch::Sender<State>>, kept: Arc<Mutex<u16>>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    let answer = match words[..] {
        ["hold"] => {
            state.send_modify(|state| state.held = true);
            "ok".to_owned()
        }
        ["release"] => {
            state.send_modify(|state| state.held = false);
            "ok".to_owned()
        }
        ["route", port] => {
            let to = port.parse().unwrap();
            *kept.lock().unwrap() = to;
            state.send_modify(|state| state.to = to);
            "ok".to_owned()
        }
        ["holding"] => state.borrow().held.to_string(),
        ["where"] => state.borrow().to.to_string(),
        _ => format!("no order: {line}"),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
}
