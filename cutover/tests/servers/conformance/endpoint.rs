//! The operator's endpoint behind the webhook: it believes nobody without the secret, fails now and
//! then, and passes orders on to the little router.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::little_router::tell;

/// Every request that was carried out: phase and idempotency key.
type Done = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// It runs in this process.
pub(super) struct Endpoint {
    pub port: u16,
    pub done: Done,
    /// How it has gone wrong.
    pub fault: Arc<Mutex<Fault>>,
    serving: JoinHandle<()>,
}

/// What an endpoint gets wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum Fault {
    #[default]
    None,
    /// It answers with nothing but a status.
    SaysNothing,
    /// It has moved to another address.
    Redirects,
}

impl Endpoint {
    /// With the ports of blue and green and of the router's orders.
    pub async fn start(secret: &str, ends: [u16; 2], orders: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let done = Arc::new(Mutex::new(Vec::new()));
        let fault = Arc::new(Mutex::new(Fault::None));
        let desk = Arc::new(Desk {
            fault: fault.clone(),
            secret: secret.to_owned(),
            ends,
            orders,
            done: done.clone(),
            busy: Mutex::default(),
        });
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(desk.clone(), stream));
            }
        });
        Self { port, done, fault, serving }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Desk {
    secret: String,
    ends: [u16; 2],
    orders: u16,
    done: Done,
    fault: Arc<Mutex<Fault>>,
    /// Acts that were told to come again.
    busy: Mutex<HashMap<String, u32>>,
}

async fn answer(desk: Arc<Desk>, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    let mut headers = HashMap::new();
    let mut line = String::new();
    let mut is_post = false;
    loop {
        line.clear();
        // A connection that is kept and not used again.
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        is_post |= line.starts_with("POST ");
        match line.trim().split_once(": ") {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            None if line.trim().is_empty() => break,
            None => {}
        }
    }
    if !is_post {
        // A page for people, as many a server has one.
        let page = "HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        stream.write_all(page.as_bytes()).await.unwrap();
        return stream.shutdown().await.unwrap();
    }
    let length = headers["content-length"].parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let (status, text) = desk.carry_out(&headers, &body).await;
    let head = format!(
        "HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

impl Desk {
    async fn carry_out(&self, headers: &HashMap<String, String>, body: &[u8]) -> (u16, String) {
        if !self.is_signed(&headers["cutover-signature"], body) {
            return (401, "who are you?".into());
        }
        let fault = *self.fault.lock().unwrap();
        if fault == Fault::Redirects {
            return (302, String::new());
        }
        let order: Value = serde_json::from_slice(body).unwrap();
        let (phase, key) = (order["phase"].as_str().unwrap(), order["key"].as_str().unwrap());
        assert!(order["deadline_ms"].as_u64().unwrap() > 0);
        // Each act once: busy, come again.
        if headers.get("idempotency-key").is_some_and(|given| given == key) {
            let mut busy = self.busy.lock().unwrap();
            let tried = busy.entry(key.to_owned()).or_default();
            *tried += 1;
            if *tried == 1 {
                return (503, "busy".into());
            }
        }
        let told = match phase {
            "hold" | "release" | "holding" => tell(self.orders, phase).await,
            "switch" => tell(self.orders, &format!("route {}", order["to"]["port"])).await,
            "verify" => tell(self.orders, "where").await,
            other => panic!("{other}"),
        };
        let Ok(told) = told else { return (502, "the router is down".into()) };
        self.done.lock().unwrap().push((phase.to_owned(), headers.get("idempotency-key").cloned()));
        match phase {
            "holding" => (200, json!({ "holding": told == "true" }).to_string()),
            "verify" if fault == Fault::None => {
                let green = told == self.ends[1].to_string();
                (200, json!({ "serving": if green { "green" } else { "blue" } }).to_string())
            }
            _ => (204, String::new()),
        }
    }

    fn is_signed(&self, signature: &str, body: &[u8]) -> bool {
        let Some((time, hex)) = signature.strip_prefix("t=").and_then(|s| s.split_once(",v1="))
        else {
            return false;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        if now.abs_diff(time.parse().unwrap()) > 300 {
            return false;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let tag = hmac::sign(&key, &[time.as_bytes(), b".", body].concat());
        let expected: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        hex == expected
    }
}
