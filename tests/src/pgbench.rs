//! pgbench through the router: a workload that somebody else wrote, and its own invariant.

mod latencies;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::paths;
use crate::postgres::rows;
use crate::process::{Launch, Process};

pub use latencies::{Latencies, Latency};

const INIT_DEADLINE: Duration = Duration::from_secs(600);

/// Creates and fills pgbench's tables (100,000 accounts for each unit of scale), with foreign keys.
pub fn init(url: &str, scale: u32) -> Result<()> {
    Launch::new(paths::postgres_client("pgbench")?)
        .args(["-i", "-q", "--foreign-keys", "-s", &scale.to_string(), url])
        .run(INIT_DEADLINE)?
        .success()
        .context("pgbench -i failed")?;
    Ok(())
}

/// A running pgbench. Dropping it kills it.
#[derive(Debug)]
pub struct Pgbench {
    process: Process,
}

/// What pgbench saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Transactions, from its rate per second: about right.
    pub transactions: f64,
    /// Errors it told of, each one line. Any error ends the client that has it.
    pub errors: Vec<String>,
}

impl Pgbench {
    /// Runs pgbench's own script at this many transactions per second, until it is stopped.
    /// The simple protocol: see [`crate::ledger`].
    pub fn start(url: &str, clients: u32, rate: u32, log: &Path) -> Result<Pgbench> {
        Pgbench::start_as("simple", url, clients, rate, log)
    }

    /// The same in another of pgbench's protocols (`-M`): `simple`, `extended` or `prepared`.
    pub fn start_as(
        protocol: &str,
        url: &str,
        clients: u32,
        rate: u32,
        log: &Path,
    ) -> Result<Pgbench> {
        let (clients, rate) = (clients.to_string(), rate.to_string());
        let process = Launch::new(paths::postgres_client("pgbench")?)
            .args(["-n", "-M", protocol, "-P", "1", "-T", "86400"])
            // A thread each: pgbench waits for answers to PREPARE, and one that is held must not keep
            // others from ending their transactions.
            .args(["-c", &clients, "-j", &clients, "-R", &rate, url])
            .start(log)?;
        Ok(Pgbench { process })
    }

    /// What it has seen so far.
    pub fn seen(&mut self) -> Result<Seen> {
        Ok(parse(&self.process.stderr()?))
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Stops it. Having ended by itself is an error: all its clients failed.
    pub fn stop(&mut self) -> Result<Seen> {
        if !self.process.is_running() {
            bail!("pgbench ended by itself:\n{}", self.process.log_tail());
        }
        // Not SIGINT: what a shell starts in the background inherits that as ignored.
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(10))?;
        self.seen()
    }
}

/// `progress: 5.0 s, 299.1 tps, lat 1.2 ms stddev 0.5, 0 failed, lag 0.1 ms`
fn parse(log: &str) -> Seen {
    let mut seen = Seen::default();
    let mut last = 0.0;
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("progress: ") {
            let mut numbers = rest.split(", ").filter_map(|part| part.split(' ').next());
            let at: Option<f64> = numbers.next().and_then(|text| text.parse().ok());
            let rate: Option<f64> = numbers.next().and_then(|text| text.parse().ok());
            if let (Some(at), Some(rate)) = (at, rate) {
                seen.transactions += rate * (at - last);
                last = at;
            }
            let failed = rest.split(", ").find_map(|part| part.strip_suffix(" failed"));
            if failed.is_some_and(|count| count != "0") {
                seen.errors.push(line.to_owned());
            }
        } else if line.contains("error") || line.contains("abort") || line.contains("fatal") {
            seen.errors.push(line.to_owned());
        }
    }
    seen
}

/// pgbench's invariant: balances of accounts, tellers and branches each sum up to what the history
/// says. Gives the number of history rows.
pub async fn check(client: &Client) -> Result<u64> {
    let sql = "SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts),
                      (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers),
                      (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches),
                      (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
                      (SELECT count(*) FROM pgbench_history)";
    let rows = rows(client, sql).await?;
    let Some([Some(accounts), Some(tellers), Some(branches), Some(history), Some(count)]) =
        rows.first().map(Vec::as_slice)
    else {
        bail!("pgbench's tables are not there")
    };
    if accounts != history || tellers != history || branches != history {
        bail!(
            "pgbench's sums differ: accounts {accounts}, tellers {tellers}, branches {branches}, \
             history {history}"
        );
    }
    Ok(count.parse()?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn progress_and_errors_are_told_apart() {
        let seen = parse(
            "pgbench (15.18)\n\
             progress: 1.0 s, 100.0 tps, lat 1.000 ms stddev 0.1, 0 failed, lag 0.1 ms\n\
             progress: 3.0 s, 50.0 tps, lat 1.000 ms stddev 0.1, 2 failed, lag 0.1 ms\n\
             pgbench: error: client 3 script 0 aborted in command 4 query 0: gone\n",
        );
        assert_eq!(seen.transactions, 200.0);
        assert_eq!(seen.errors.len(), 2, "{:?}", seen.errors);
    }
}
