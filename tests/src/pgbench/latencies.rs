//! The latency of every single transaction, from pgbench's own log.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::paths;
use crate::process::{Launch, Process};

/// A pgbench that logs every transaction. Dropping it kills it.
#[derive(Debug)]
pub struct Latencies {
    process: Process,
    directory: PathBuf,
}

impl Latencies {
    /// Runs TPC-B at this many transactions per second. `directory`: for the logs; is made.
    pub fn start(url: &str, clients: u32, rate: u32, directory: &Path) -> Result<Latencies> {
        std::fs::create_dir_all(directory)?;
        let (clients, rate) = (clients.to_string(), rate.to_string());
        let process = Launch::new(paths::postgres_client("pgbench")?)
            .args(["-n", "-M", "prepared", "-T", "86400", "-l", "--log-prefix"])
            .arg(directory.join("log"))
            .args(["-c", &clients, "-j", &clients, "-R", &rate, url])
            .start(&directory.join("output"))?;
        Ok(Latencies { process, directory: directory.to_path_buf() })
    }

    /// Stops it; the latencies of all transactions, each from the moment at which it was due.
    pub fn stop(mut self) -> Result<Vec<Latency>> {
        ensure!(self.process.is_running(), "pgbench ended:\n{}", self.process.log_tail());
        // Not SIGINT, which is ignored by whatever a shell has put into the background.
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(10))?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("log.") {
                let text = std::fs::read_to_string(&path)?;
                found.extend(text.lines().filter_map(Latency::parse));
            }
        }
        ensure!(!found.is_empty(), "pgbench has logged nothing in {}", self.directory.display());
        Ok(found)
    }
}

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    ended: SystemTime,
    pub latency_ms: f64,
}

impl Latency {
    /// `client transaction latency_us script end_s end_us lag_us`; `None`: cut off.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<f64> =
            line.split(' ').map(|field| field.parse().ok()).collect::<Option<Vec<_>>>()?;
        let [_, _, latency_us, _, end_s, end_us, _, ..] = fields.as_slice() else { return None };
        let ended = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(end_s + end_us / 1e6);
        Some(Self { ended, latency_ms: latency_us / 1e3 })
    }

    /// Whether it ended in one of these times.
    pub fn is_in(&self, times: &[Range<SystemTime>]) -> bool {
        times.iter().any(|time| time.contains(&self.ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_it_ended_and_how_long_it_took() {
        let latency = Latency::parse("0 199 2241 0 1175850568 995598 5").unwrap();
        assert_eq!(latency.latency_ms, 2.241);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let [from, to] = [at(1_175_850_568), at(1_175_850_569)];
        assert!(latency.is_in(&[to..to, from..to]));
        assert!(!latency.is_in(&[to..at(u64::from(u32::MAX))]));
        assert_eq!(Latency::parse("0 199 22"), None);
    }
}
