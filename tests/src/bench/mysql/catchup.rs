//! Catching up on sysbench's `oltp_write_only`, beside the server's own replica.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::Versions;
use super::greens::{DATABASE, Greens, POLL};
use crate::bench::catchup::{Caught, Contest, Outcome, rounds};
use crate::bench::options::Options;
use crate::bench::pair::{LONG, stop_replicator};
use crate::bench::sides::{Cpu, Side};
use crate::bench::usage;
use crate::ledger::mysql::options;
use crate::mysql::Mysql;
use crate::mysql::oltp::Oltp;
use crate::process::Process;

/// Of one round, times `BENCH_SCALE`.
const TRANSACTIONS: u64 = 120_000;
const SESSIONS: u64 = 4;
const TABLES: u32 = 4;
/// Of each table, times `BENCH_SCALE`.
const ROWS: u64 = 100_000;

/// Runs all rounds and compares both greens with blue.
pub async fn run(options: &Options, versions: Versions) -> Result<Outcome> {
    let greens = Greens::start(options, versions)?;
    let load = Oltp { tables: TABLES, rows: options.scaled(ROWS) };
    let mut contest = Replicated { greens, load, marker: None, round: 0 };
    match contest.play().await {
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(error.context(format!("logs: {}", contest.greens.keep().display()))),
    }
}

struct Replicated {
    greens: Greens,
    load: Oltp,
    /// Behind the backlog.
    marker: Option<Marker>,
    round: u64,
}

/// A transaction of blue behind all others.
#[derive(Debug, Clone, Copy)]
struct Marker {
    /// In its row.
    n: u64,
    /// Of its GTID.
    sequence: u64,
}

impl Replicated {
    async fn play(&mut self) -> Result<Outcome> {
        let sql = format!(
            "use {DATABASE}; {} create table bench_marker (id int primary key, n bigint not null);
             insert into bench_marker values (1, 0);",
            self.load.create()
        );
        self.greens.blue.run(&sql).context("blue's tables")?;
        self.greens.copy().await.context("the first copy")?;
        rounds(self).await
    }

    fn green(&self, side: Side) -> Result<&Mysql> {
        match side {
            Side::Ours => Ok(&self.greens.ours),
            Side::Native => self.greens.native(),
        }
    }

    /// CPU seconds so far.
    fn cpu(&self, green: &Mysql, sidecar: Option<&Process>) -> Result<Cpu> {
        let server = |server: &Mysql| usage::cpu_seconds(server.pid().context("a server is down")?);
        Ok(Cpu {
            blue: server(&self.greens.blue)?,
            green: server(green)?,
            replicator: sidecar.map_or(Ok(0.0), |sidecar| usage::cpu_seconds(sidecar.pid()))?,
            machine: usage::machine_cpu_seconds()?,
        })
    }

    /// Waits until green has the marker and everything before it; gives the moment of the first applied
    /// transaction, where it is known, and that of the last.
    async fn wait_applied(
        &self,
        watch: &mut Conn,
        marker: Marker,
        started: Instant,
        mut sidecar: Option<&mut Process>,
    ) -> Result<(Option<Instant>, Instant)> {
        let mut first = None;
        let mut asked = Instant::now();
        loop {
            if let Some(sidecar) = &mut sidecar {
                let ended = sidecar.ended()?;
                ensure!(ended.is_none(), "the replicator ended: {}", sidecar.log_tail());
                if first.is_none() && self.has_applied() {
                    first = Some(Instant::now());
                }
            } else if asked.elapsed().as_secs() >= 5 {
                self.greens.ensure_replicating()?;
                asked = Instant::now();
            }
            let n: Option<u64> = watch.query_first("select n from bench_marker").await?;
            let now = Instant::now();
            // A replica commits in order; the replicator may have several lanes, so its low-watermark
            // has to be there, too.
            let covers = sidecar.is_none() || n == Some(marker.n) && self.covers(marker);
            if n == Some(marker.n) && covers {
                return Ok((first, now));
            }
            ensure!(started.elapsed() < LONG, "not done after {LONG:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    fn has_applied(&self) -> bool {
        let status = self.greens.api.status().ok();
        let applied = status.and_then(|status| status["counters"]["transactions"].as_u64());
        applied.is_some_and(|transactions| transactions > 0)
    }

    fn covers(&self, marker: Marker) -> bool {
        let status = self.greens.api.status().ok();
        let applied = status.and_then(|status| {
            status["positions"]["applied"]["gtid"].as_str().and_then(last_number)
        });
        applied.is_some_and(|sequence| sequence >= marker.sequence)
    }
}

/// Of `0-1-17`, and of `uuid:1-17`: blue alone has written, in one domain.
fn last_number(gtid: &str) -> Option<u64> {
    gtid.rsplit(['-', ':']).next()?.trim().parse().ok()
}

impl Contest for Replicated {
    fn options(&self) -> &Options {
        self.greens.options()
    }

    async fn backlog(&mut self) -> Result<u64> {
        let (load, url) = (self.load, self.greens.url(&self.greens.blue));
        let transactions = self.options().scaled(TRANSACTIONS);
        self.round += 1;
        let round = self.round;
        let written = Instant::now();
        let committed =
            tokio::task::spawn_blocking(move || load.run(&url, SESSIONS, transactions, round))
                .await?
                .context("the backlog")?;
        let blue = &self.greens.blue;
        blue.run(&format!("update {DATABASE}.bench_marker set n = n + 1"))?;
        let n = blue.value(&format!("select n from {DATABASE}.bench_marker"))?.parse()?;
        let position = match blue.version().is_mariadb() {
            true => "select @@gtid_binlog_pos",
            false => "select @@gtid_executed",
        };
        let position = blue.value(position)?;
        let sequence = last_number(&position).with_context(|| position.clone())?;
        self.marker = Some(Marker { n, sequence });
        eprintln!("  backlog: {committed} in {:.1} s", written.elapsed().as_secs_f64());
        Ok(committed)
    }

    async fn catch_up(&mut self, side: Side) -> Result<Caught> {
        let marker = self.marker.context("there is no backlog")?;
        self.greens.settle().await?;
        let green = self.green(side)?;
        let mut watch = Conn::new(options(&self.greens.url(green))?).await?;
        let before = self.cpu(green, None)?;
        let started = Instant::now();
        let mut sidecar = match side {
            Side::Ours => Some(self.greens.start_replicator()?),
            Side::Native => {
                self.greens.turn("start")?;
                None
            }
        };
        let waited = self.wait_applied(&mut watch, marker, started, sidecar.as_mut()).await;
        let (first, done) = waited.with_context(|| format!("{} catches up", side.database()))?;
        let cpu = self.cpu(green, sidecar.as_ref())?.since(before);
        match &mut sidecar {
            Some(sidecar) => stop_replicator(sidecar)?,
            None => self.greens.turn("stop")?,
        }
        let after_first = first.map(|first| (done - first).as_secs_f64());
        Ok(Caught { seconds: (done - started).as_secs_f64(), after_first, cpu })
    }

    fn changes_per_unit(&self) -> f64 {
        4.0
    }

    async fn ensure_exact(&self, sides: &[Side]) -> Result<u64> {
        let mut rows = 0;
        for side in sides {
            let green = self.green(*side)?;
            rows = self
                .greens
                .ensure_exact(green, &self.load.names())
                .with_context(|| side.database())?;
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn the_last_number_of_a_position() {
        assert_eq!(last_number("0-21000-17"), Some(17));
        assert_eq!(last_number("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-1207"), Some(1207));
        assert_eq!(last_number("3e11fa47-71ca-11e1-9e33-c80aa9429562:5"), Some(5));
        assert_eq!(last_number(""), None);
    }
}
