//! The two that are compared: starting one, waiting until it has applied everything, stopping it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use super::options::Sides;
use super::pair::{BLUE, LONG, NATIVE, OURS, Pair, SOON, ensure_running, stop_replicator};
use super::usage;
use crate::postgres::{describe, rows};
use crate::process::Process;
use crate::wait;

/// How often green is asked.
const POLL: Duration = Duration::from_millis(5);

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Ours,
    Native,
}

impl Side {
    /// Its database on green.
    pub fn database(self) -> &'static str {
        match self {
            Side::Ours => OURS,
            Side::Native => NATIVE,
        }
    }

    /// Who is measured in this round, in order: who is first alternates.
    pub fn order(sides: Sides, round: usize) -> Vec<Side> {
        match (sides, round % 2) {
            (Sides::Ours, _) => vec![Side::Ours],
            (Sides::Native, _) => vec![Side::Native],
            (Sides::Both, 0) => vec![Side::Ours, Side::Native],
            (Sides::Both, _) => vec![Side::Native, Side::Ours],
        }
    }
}

/// A transaction of blue: everything committed before it is on green when it is, if transactions
/// are applied in order, and when green has got beyond `lsn` too, if they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    n: i64,
    lsn: u64,
}

impl Pair {
    /// Commits a marker on blue, durably: with `synchronous_commit = off` what was committed
    /// before it may not have reached the log yet that a walsender reads.
    pub async fn mark(&self) -> Result<Marker> {
        let client = self.blue.connect(BLUE).await?;
        let position = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn";
        let lsn = one(&client, position).await?;
        let update = "SET synchronous_commit = on;
                      UPDATE public.bench_marker SET n = n + 1";
        client.batch_execute(update).await.map_err(|error| describe(&error))?;
        let n = one(&client, "SELECT n FROM public.bench_marker").await?;
        Ok(Marker { n: n.parse()?, lsn: lsn.parse()? })
    }
}

/// One of the two, at work.
#[derive(Debug)]
pub struct Running {
    side: Side,
    sidecar: Option<Process>,
    /// The moment at which it was told to start.
    pub started: Instant,
    watch: Client,
}

/// What a side used since a moment: CPU seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub blue: f64,
    pub green: f64,
    /// The replicator's since it started; 0 on the native side, whose worker is part of green.
    pub replicator: f64,
    /// The whole machine's.
    pub machine: f64,
}

impl Cpu {
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            blue: self.blue - earlier.blue,
            green: self.green - earlier.green,
            replicator: self.replicator,
            machine: self.machine - earlier.machine,
        }
    }
}

impl Running {
    /// Starts a side. The clock starts with it: with the program, or with `ENABLE`.
    pub async fn start(pair: &Pair, side: Side) -> Result<Running> {
        let watch = pair.green.connect(side.database()).await?;
        let client = pair.green.connect(NATIVE).await?;
        let started = Instant::now();
        let sidecar = match side {
            Side::Ours => Some(pair.start_replicator(OURS)?),
            Side::Native => {
                let enable = format!("ALTER SUBSCRIPTION {NATIVE} ENABLE");
                client.batch_execute(&enable).await.map_err(|error| describe(&error))?;
                None
            }
        };
        Ok(Running { side, sidecar, started, watch })
    }

    /// Waits until green has the marker and everything before it; gives the moment of the first
    /// applied transaction, where it is known, and that of the last.
    pub async fn wait_applied(
        &mut self,
        pair: &Pair,
        marker: Marker,
    ) -> Result<(Option<Instant>, Instant)> {
        let mut first = None;
        loop {
            if let Some(sidecar) = &mut self.sidecar {
                ensure_running(sidecar)?;
                if first.is_none() && has_applied(pair) {
                    first = Some(Instant::now());
                }
            }
            let n = one(&self.watch, "SELECT n FROM public.bench_marker").await?;
            let now = Instant::now();
            if n.parse::<i64>()? >= marker.n && self.covers(pair, marker) {
                return Ok((first, now));
            }
            ensure!(
                self.started.elapsed() < LONG,
                "{} is not done after {LONG:?}; {}",
                self.side.database(),
                self.sidecar.as_ref().map_or("see green's log".into(), Process::log_tail)
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// PostgreSQL's worker applies in order, so the marker says it all. The replicator may have
    /// several lanes: its low-watermark has to be there too.
    fn covers(&self, pair: &Pair, marker: Marker) -> bool {
        match self.side {
            Side::Native => true,
            Side::Ours => applied(pair).is_some_and(|lsn| lsn >= marker.lsn),
        }
    }

    /// CPU seconds so far.
    pub fn cpu(&self, pair: &Pair) -> Result<Cpu> {
        let server = |pid: Option<u32>| usage::tree_cpu_seconds(pid.context("a server is down")?);
        Ok(Cpu {
            blue: server(pair.blue.pid())?,
            green: server(pair.green.pid())?,
            replicator: match &self.sidecar {
                Some(sidecar) => usage::cpu_seconds(sidecar.pid())?,
                None => 0.0,
            },
            machine: usage::machine_cpu_seconds()?,
        })
    }

    /// Peak resident sizes, bytes, by name: the replicator's, or those of the two processes of a
    /// subscription.
    pub async fn peaks(&self, pair: &Pair) -> Result<Vec<(&'static str, u64)>> {
        if let Some(sidecar) = &self.sidecar {
            return Ok(vec![("replicator", usage::peak_resident_bytes(sidecar.pid())?)]);
        }
        let worker = "SELECT pid FROM pg_stat_subscription WHERE relid IS NULL AND pid IS NOT NULL";
        let worker = pair.green.value(NATIVE, worker).await?;
        let sender =
            format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{NATIVE}'");
        let sender = pair.blue.value(BLUE, &sender).await?;
        Ok(vec![
            ("apply worker", usage::peak_resident_bytes(worker.parse()?)?),
            ("walsender", usage::peak_resident_bytes(sender.parse()?)?),
        ])
    }

    /// Stops it, and waits until its slot on blue is free.
    pub async fn stop(mut self, pair: &Pair) -> Result<()> {
        match &mut self.sidecar {
            Some(sidecar) => stop_replicator(sidecar)?,
            None => {
                let disable = format!("ALTER SUBSCRIPTION {NATIVE} DISABLE");
                pair.green.execute(NATIVE, &disable).await?;
            }
        }
        let blue = pair.blue.connect(BLUE).await?;
        wait::until("the slots on blue to be free", SOON, || async {
            let busy = "SELECT 1 FROM pg_replication_slots WHERE active";
            Ok(rows(&blue, busy).await?.is_empty().then_some(()))
        })
        .await
    }
}

fn has_applied(pair: &Pair) -> bool {
    pair.status()
        .and_then(|status| status["counters"]["transactions"].as_u64())
        .is_some_and(|transactions| transactions > 0)
}

/// Everything before this position is applied, as the replicator says.
fn applied(pair: &Pair) -> Option<u64> {
    let status = pair.status()?;
    let text = status["positions"]["applied"]["lsn"].as_str()?;
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

async fn one(client: &Client, sql: &str) -> Result<String> {
    let found = rows(client, sql).await?;
    let value = found.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    value.with_context(|| format!("no value from: {sql}"))
}
