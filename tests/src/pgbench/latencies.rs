//! The latency of every single transaction, from pgbench's own log.

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

    /// Stops it; the latencies in milliseconds of all transactions that ended after `since`, each
    /// from the moment at which it was due.
    pub fn stop(mut self, since: SystemTime) -> Result<Vec<f64>> {
        ensure!(self.process.is_running(), "pgbench ended:\n{}", self.process.log_tail());
        // Not SIGINT, which is ignored by whatever a shell has put into the background.
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(10))?;
        let since = since.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("log.") {
                let text = std::fs::read_to_string(&path)?;
                found.extend(text.lines().filter_map(|line| latency(line, since)));
            }
        }
        ensure!(!found.is_empty(), "pgbench has logged nothing in {}", self.directory.display());
        Ok(found)
    }
}

/// `client transaction latency_us script end_s end_us lag_us`; `None`: too early, or cut off.
fn latency(line: &str, since: f64) -> Option<f64> {
    let fields: Vec<f64> =
        line.split(' ').map(|field| field.parse().ok()).collect::<Option<Vec<_>>>()?;
    let [_, _, latency_us, _, end_s, end_us, ..] = fields.as_slice() else { return None };
    (end_s + end_us / 1e6 >= since).then_some(latency_us / 1e3)
}

#[cfg(test)]
mod tests {
    use super::latency;

    #[test]
    fn only_what_ended_later_counts() {
        let line = "0 199 2241 0 1175850568 995598 5";
        assert_eq!(latency(line, 1_175_850_568.0), Some(2.241));
        assert_eq!(latency(line, 1_175_850_569.0), None);
        assert_eq!(latency("0 199 22", 0.0), None);
    }
}
