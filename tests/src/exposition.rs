//! What a sidecar has shown at `/metrics`, served again under another name and with chosen samples: causes that
//! can't be made with servers in a moment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, ensure};

/// A value instead of the one that was shown.
#[derive(Debug, Clone, Copy)]
pub enum Sample {
    Is(f64),
    /// More with every scrape.
    Grows {
        from: f64,
        by: f64,
    },
}

/// An HTTP server. It answers until the process ends.
#[derive(Debug)]
pub struct Exposition {
    pub address: String,
    shown: Arc<Shown>,
}

#[derive(Debug)]
struct Shown {
    lines: Vec<String>,
    chosen: Mutex<BTreeMap<String, (Sample, f64)>>,
}

impl Exposition {
    /// Serves `text` with the label `pipeline` changed from one name to the other.
    pub fn start(text: &str, from: &str, to: &str) -> Result<Exposition> {
        let label = |name: &str| format!("pipeline=\"{name}\"");
        let text = text.replace(&label(from), &label(to));
        let lines = text.lines().map(str::to_owned).collect();
        let shown = Arc::new(Shown { lines, chosen: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let served = Arc::clone(&shown);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who hangs up asks again a second later.
                let _ = answer(&stream, &served);
            }
        });
        Ok(Exposition { address, shown })
    }

    /// Shows this from now on, for a series that the sidecar had: name and labels as in its line.
    pub fn choose(&self, series: &str, sample: Sample) -> Result<()> {
        let is_it = |line: &String| line.strip_prefix(series).is_some_and(|l| l.starts_with(' '));
        ensure!(self.shown.lines.iter().any(is_it), "a sidecar has no series {series}");
        self.shown.chosen().insert(series.to_owned(), (sample, 0.0));
        Ok(())
    }

    /// Shows again what the sidecar has shown.
    pub fn forget(&self) {
        self.shown.chosen().clear();
    }
}

impl Shown {
    fn chosen(&self) -> MutexGuard<'_, BTreeMap<String, (Sample, f64)>> {
        self.chosen.lock().expect("nobody panics with it")
    }

    fn text(&self) -> String {
        let mut chosen = self.chosen();
        let mut text = String::new();
        for line in &self.lines {
            let series = line.rsplit_once(' ').map_or(line.as_str(), |(series, _)| series);
            match chosen.get_mut(series) {
                None => text += line,
                Some((sample, scrapes)) => {
                    *scrapes += 1.0;
                    let value = match *sample {
                        Sample::Is(value) => value,
                        Sample::Grows { from, by } => from + by * *scrapes,
                    };
                    text += &format!("{series} {value}");
                }
            }
            text.push('\n');
        }
        text
    }
}

fn answer(mut stream: &TcpStream, shown: &Shown) -> Result<()> {
    let mut request = BufReader::new(stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let text = shown.text();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(text.as_bytes())?)
}
