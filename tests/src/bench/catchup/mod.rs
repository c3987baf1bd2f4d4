//! Catching up: a backlog grows while both sides are down, then each works it off alone.

mod subscription;

use anyhow::{Result, ensure};

use super::options::{Options, Sides};
use super::report::Series;
use super::sides::{Cpu, Side};

pub use subscription::{Workload, run};

/// Two that work off the same backlog: ours, and what the servers bring.
pub(super) trait Contest {
    fn options(&self) -> &Options;

    /// Writes the backlog of one round while both are down; gives its size in the unit of the bench.
    async fn backlog(&mut self) -> Result<u64>;

    /// Starts a side, waits until it has everything, and stops it.
    async fn catch_up(&mut self, side: Side) -> Result<Caught>;

    /// Row changes in one unit.
    fn changes_per_unit(&self) -> f64;

    /// Fails unless these sides' targets are exact copies of blue; gives the rows of one.
    async fn ensure_exact(&self, sides: &[Side]) -> Result<u64>;
}

/// How a side has caught up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caught {
    /// From its start until everything was visible.
    pub seconds: f64,
    /// The part of them after its first commit, where that is known.
    pub after_first: Option<f64>,
    pub cpu: Cpu,
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

/// All rounds, and the comparison at the end.
pub(super) async fn rounds(contest: &mut impl Contest) -> Result<Outcome> {
    let (sides, rounds) = (contest.options().sides, contest.options().rounds);
    let mut outcome = Outcome::default();
    for round in 0..rounds {
        let units = contest.backlog().await?;
        for side in Side::order(sides, round) {
            let caught = contest.catch_up(side).await?;
            let rate = units as f64 / caught.seconds;
            let after_first = caught.after_first.map_or(String::new(), |seconds| {
                format!(", {seconds:.2} s of them after the first commit")
            });
            eprintln!(
                "  round {} {:>6}: {units} in {:.2} s{after_first}: {rate:.0}/s; {}",
                round + 1,
                side.database(),
                caught.seconds,
                show(caught.cpu, caught.seconds)
            );
            match side {
                Side::Native => outcome.native.push(rate),
                Side::Ours => {
                    outcome.ours.push(rate);
                    let changes = units as f64 * contest.changes_per_unit();
                    outcome.cpu.push(caught.cpu.replicator * 1e6 / changes);
                }
            }
        }
    }
    let measured: &[Side] = match sides {
        Sides::Both => &[Side::Ours, Side::Native],
        Sides::Ours => &[Side::Ours],
        Sides::Native => &[Side::Native],
    };
    let rows = contest.ensure_exact(measured).await?;
    ensure!(rows > 0, "blue is empty");
    let names: Vec<_> = measured.iter().map(|side| side.database()).collect();
    eprintln!("  exact copies of {rows} rows: {}", names.join(", "));
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
