//! Catching up: a backlog grows while both sides are down, then each works it off alone.

use anyhow::{Context, Result, ensure};

use super::options::{Options, Sides};
use super::pair::{NATIVE, OURS, Pair};
use super::report::Series;
use super::sides::{Cpu, Running, Side};

/// A backlog, and what it is counted in.
pub trait Workload {
    /// Creates and fills the tables on blue.
    fn prepare(&self, pair: &Pair) -> impl Future<Output = Result<()>>;

    /// Writes the backlog of one round; gives its size in the unit of the bench.
    fn backlog(&self, pair: &Pair) -> impl Future<Output = Result<u64>>;

    /// Row changes in one unit.
    fn changes_per_unit(&self) -> f64;
}

/// What the rounds gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Units per second.
    pub ours: Series,
    pub native: Series,
    /// CPU seconds of the replicator per million row changes.
    pub cpu: Series,
}

/// Runs all rounds and compares both greens with blue.
pub async fn run(options: &Options, workload: &impl Workload) -> Result<Outcome> {
    let mut pair = Pair::start(options).await?;
    match rounds(&mut pair, workload).await {
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(error.context(format!("logs: {}", pair.keep().display()))),
    }
}

async fn rounds(pair: &mut Pair, workload: &impl Workload) -> Result<Outcome> {
    let sides = pair.options().sides;
    workload.prepare(pair).await.context("blue's tables")?;
    pair.copy().await.context("the first copy")?;
    let mut outcome = Outcome::default();
    for round in 0..pair.options().rounds {
        let units = workload.backlog(pair).await.context("the backlog")?;
        let marker = pair.mark().await?;
        for side in Side::order(sides, round) {
            pair.settle().await?;
            let mut running = Running::start(pair, side).await?;
            let before = running.cpu(pair)?;
            let (first, done) = running.wait_applied(pair, marker).await?;
            let cpu = running.cpu(pair)?.since(before);
            let seconds = (done - running.started).as_secs_f64();
            let rate = units as f64 / seconds;
            let after_first = first.map_or(String::new(), |first| {
                format!(", {:.2} s of them after the first commit", (done - first).as_secs_f64())
            });
            eprintln!(
                "  round {} {:>6}: {units} in {seconds:.2} s{after_first}: {rate:.0}/s; {}",
                round + 1,
                side.database(),
                show(cpu, seconds)
            );
            running.stop(pair).await?;
            match side {
                Side::Native => outcome.native.push(rate),
                Side::Ours => {
                    outcome.ours.push(rate);
                    let changes = units as f64 * workload.changes_per_unit();
                    outcome.cpu.push(cpu.replicator * 1e6 / changes);
                }
            }
        }
    }
    let greens: &[&str] = match sides {
        Sides::Both => &[OURS, NATIVE],
        Sides::Ours => &[OURS],
        Sides::Native => &[NATIVE],
    };
    let rows = pair.ensure_exact(greens).await?;
    ensure!(rows > 0, "blue is empty");
    eprintln!("  exact copies of {rows} rows: {}", greens.join(", "));
    Ok(outcome)
}

/// Where the time went. What others used of the machine says whether the figure can be trusted.
fn show(cpu: Cpu, seconds: f64) -> String {
    let all = cpu.blue + cpu.green + cpu.replicator;
    format!(
        "CPU {all:.1} s (blue {:.1}, green {:.1}, replicator {:.1}), {:.2} cores; others {:.2} cores",
        cpu.blue,
        cpu.green,
        cpu.replicator,
        all / seconds,
        (cpu.machine - all).max(0.0) / seconds
    )
}
