//! On PostgreSQL: the replicator beside a subscription.

use anyhow::{Context, Result};

use super::{Caught, Contest, Outcome, rounds};
use crate::bench::options::Options;
use crate::bench::pair::Pair;
use crate::bench::sides::{Marker, Running, Side};

/// A backlog, and what it is counted in.
pub trait Workload {
    /// Creates and fills the tables on blue.
    fn prepare(&self, pair: &Pair) -> impl Future<Output = Result<()>>;

    /// Writes the backlog of one round; gives its size in the unit of the bench.
    fn backlog(&self, pair: &Pair) -> impl Future<Output = Result<u64>>;

    /// Row changes in one unit.
    fn changes_per_unit(&self) -> f64;
}

/// Runs all rounds and compares both greens with blue.
pub async fn run(options: &Options, workload: &impl Workload) -> Result<Outcome> {
    let pair = Pair::start(options).await?;
    let mut contest = Subscribed { pair, workload, marker: None };
    match contest.play().await {
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(error.context(format!("logs: {}", contest.pair.keep().display()))),
    }
}

struct Subscribed<'a, W> {
    pair: Pair,
    workload: &'a W,
    /// Behind the backlog.
    marker: Option<Marker>,
}

impl<W: Workload> Subscribed<'_, W> {
    async fn play(&mut self) -> Result<Outcome> {
        self.workload.prepare(&self.pair).await.context("blue's tables")?;
        self.pair.copy().await.context("the first copy")?;
        rounds(self).await
    }
}

impl<W: Workload> Contest for Subscribed<'_, W> {
    fn options(&self) -> &Options {
        self.pair.options()
    }

    async fn backlog(&mut self) -> Result<u64> {
        let units = self.workload.backlog(&self.pair).await.context("the backlog")?;
        self.marker = Some(self.pair.mark().await?);
        Ok(units)
    }

    async fn catch_up(&mut self, side: Side) -> Result<Caught> {
        let pair = &self.pair;
        let marker = self.marker.context("there is no backlog")?;
        pair.settle().await?;
        let mut running = Running::start(pair, side).await?;
        let before = running.cpu(pair)?;
        let (first, done) = running.wait_applied(pair, marker).await?;
        let cpu = running.cpu(pair)?.since(before);
        let seconds = (done - running.started).as_secs_f64();
        let after_first = first.map(|first| (done - first).as_secs_f64());
        running.stop(pair).await?;
        Ok(Caught { seconds, after_first, cpu })
    }

    fn changes_per_unit(&self) -> f64 {
        self.workload.changes_per_unit()
    }

    async fn ensure_exact(&self, sides: &[Side]) -> Result<u64> {
        let greens: Vec<_> = sides.iter().map(|side| side.database()).collect();
        self.pair.ensure_exact(&greens).await
    }
}
