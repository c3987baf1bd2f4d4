//! Alerts reach their receivers, and go away again.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

/// An HTTP server that answers 200 and keeps what was posted.
pub struct Receiver {
    pub address: String,
    posted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    pub fn start() -> Result<Receiver> {
        Receiver::start_at("127.0.0.1:0")
    }

    /// At an address that was down until now.
    pub fn start_at(address: &str) -> Result<Receiver> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?.to_string();
        let posted = Arc::new(Mutex::new(Vec::new()));
        let kept = posted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok((path, body)) = read_request(&mut BufReader::new(&stream)) else { continue };
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok() {
                    kept.lock().expect("nobody panics with it").push((path, body));
                }
            }
        });
        Ok(Receiver { address, posted })
    }

    /// How many of what was posted are such.
    pub fn count(&self, is_it: impl Fn(&str, &Value) -> bool) -> usize {
        let posted = self.posted.lock().expect("nobody panics with it");
        posted.iter().filter(|(path, body)| is_it(path, body)).count()
    }

    /// What was posted there, in order.
    pub fn posted_to(&self, path: &str) -> Vec<Value> {
        let posted = self.posted.lock().expect("nobody panics with it");
        posted.iter().filter(|(to, _)| to == path).map(|(_, body)| body.clone()).collect()
    }

    pub async fn wait(&self, what: &str, is_it: impl Fn(&str, &Value) -> bool) -> Result<()> {
        wait::until(what, SOON, || async {
            let posted = self.posted.lock().expect("nobody panics with it");
            Ok(posted.iter().any(|(path, body)| is_it(path, body)).then_some(()))
        })
        .await
        .with_context(|| format!("{:?}", self.posted.lock().expect("nobody panics with it")))
    }
}

fn read_request(reader: &mut impl BufRead) -> Result<(String, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((path, serde_json::from_slice(&body)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_is_raised_and_cleared_at_webhook_and_alertmanager() -> Result<()> {
    let receiver = Receiver::start()?;
    let config = format!(
        "[alerts.lag_high]\nraise = 2.0\nclear = 1.0\nfor_seconds = 1.0\n\
         [alerts.webhook]\nurl = 'http://{0}/hook'\n\
         [[alerts.alertmanager]]\nurl = 'http://{0}'",
        receiver.address
    );
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0).config(&config)).await?;
    let holder = this.stage.green.connect(DATABASE).await?;
    holder.batch_execute("BEGIN; LOCK TABLE ledger.accounts IN ACCESS EXCLUSIVE MODE").await?;
    let alert = "CutoverLagHigh";
    receiver
        .wait("the webhook to fire", |path, body| {
            path == "/hook" && body["alert"] == alert && body["status"] == "firing"
        })
        .await?;
    receiver
        .wait("Alertmanager to be told", |path, body| {
            path == "/api/v2/alerts" && body[0]["labels"]["alertname"] == alert
        })
        .await?;
    holder.batch_execute("ROLLBACK").await?;
    receiver
        .wait("the webhook to be told of the end", |path, body| {
            path == "/hook" && body["alert"] == alert && body["status"] == "resolved"
        })
        .await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}
