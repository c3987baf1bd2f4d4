//! Looking at the world: one file for each kind of monitor. Each look ends by itself and never
//! fails; that nothing was seen is a sample, too.

mod http;
mod prometheus;
mod serving;
mod session;
mod sql;
mod way_back;

use tokio::sync::watch;

use crate::login::Login;
use crate::ports::Progress;

pub use http::HttpProbe;
pub use prometheus::{Bound, PrometheusProbe};
pub use serving::ServingProbe;
pub use sql::SqlProbe;
pub use way_back::WayBackProbe;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Place {
    /// The side that serves, as the sidecar connects.
    pub serving: Login,
    /// The stream from the side that serves to the other one; `None`: there is none.
    pub way_back: Option<watch::Receiver<Progress>>,
}

#[cfg(test)]
mod testing {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// Answers as many requests as there are answers, each with its status and body; the URL.
    pub fn serve(answers: Vec<(u16, String)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let head = BufReader::new(&stream).lines();
                let ended = head.map_while(Result::ok).find(|line| line.is_empty());
                assert!(ended.is_some(), "the request has no end");
                let length = if status == 204 {
                    String::new()
                } else {
                    format!("content-length: {}\r\n", body.len())
                };
                let answer =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{length}\r\n{body}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }
}
