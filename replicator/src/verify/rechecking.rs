//! Rows that were written since, looked at again between two PostgreSQL databases: by the same rules as
//! everything else ([`super::settle`]), once the stream has applied what blue shows.

use std::sync::Arc;
use std::time::Duration;

use decoders::QualifiedName;

use super::compare::Compared;
use super::continuous::{Continuous, Looker};
use super::reader::Trouble;
use super::settle::{Settled, Suspects, settle_within};
use super::work::{self, Bench, Pair, Shop};
use crate::engine::touched::{Cascades, Next, Watched};

/// Between two looks, where there is nothing left to look at.
const REST: Duration = Duration::from_millis(200);
/// Rows of one settling: what could not be settled goes back together.
const STEP_ROWS: usize = 200;
/// How long a row may take to be caught at rest; one that is written that often is noted again.
const SETTLE: Duration = Duration::from_secs(1);
/// Differences after which no more are looked for.
const ENOUGH: usize = 10_000;
/// Connections for a table that has to be compared again.
const WORKERS: u32 = 1;

/// What is noted of a table.
pub(super) fn watched(bench: &Arc<Bench>) -> Watched {
    Watched {
        name: bench.plan.name.clone(),
        key: bench.plan.key.iter().map(|column| column.name.clone()).collect(),
        columns: bench.plan.columns.clone(),
        cascades: Cascades::default(),
    }
}

/// Two PostgreSQL databases.
pub(super) struct PostgresLooker {
    shop: Arc<Shop>,
    benches: Vec<Arc<Bench>>,
    pair: Option<Pair>,
}

impl PostgresLooker {
    pub fn new(shop: Arc<Shop>, benches: Vec<Arc<Bench>>) -> Self {
        Self { shop, benches, pair: None }
    }

    /// Whether all of them are settled.
    async fn step(
        &mut self,
        continuous: &Continuous,
        bench: &Arc<Bench>,
        keys: Vec<Vec<String>>,
    ) -> Result<bool, Trouble> {
        let shop = &self.shop;
        let pair = match &mut self.pair {
            Some(pair) => pair,
            pair => pair.insert(shop.open().await?),
        };
        pair.set_for(&bench.plan).await?;
        // Settling waits for the stream more than it reads: it is no reading that lasts.
        drop(shop.gate.enter().await);
        let rechecked = keys.len() as u64;
        let suspects = Suspects::Keys(keys);
        let mut settled = settle_within(SETTLE, shop, pair, &bench.plan, &suspects, ENOUGH).await?;
        // In and behind a pause clients write the other side: what was seen then is no difference.
        continuous.turning.check()?;
        let unsettled = settled.unsettled;
        let table = bench.plan.name.to_string();
        continuous.rechecked(rechecked);
        continuous.take_new(&table, &mut settled).await?;
        bench.take(Compared { rows: 0, rechecked, settled }, shop).await;
        Ok(unsettled == 0)
    }

    /// A table from its first to its last row.
    async fn whole(&self, continuous: &Continuous, bench: &Arc<Bench>) -> Result<(), Trouble> {
        let shop = &self.shop;
        shop.await_head().await?;
        let again = Arc::new(Bench::new(bench.plan.clone(), Vec::new()));
        // A pause is no time to read tables.
        tokio::select! {
            all = work::all(Arc::clone(shop), vec![Arc::clone(&again)], WORKERS) => all?,
            trouble = continuous.turning.ended() => return Err(trouble),
        }
        continuous.turning.check()?;
        let report = again.report.lock().await.clone();
        continuous.rechecked(report.rows);
        if let Some(error) = report.error {
            return Err(Trouble::new("verification", error));
        }
        let differences = again.found.lock().await.clone();
        let mut settled = Settled { differences, ..Settled::default() };
        let table = bench.plan.name.to_string();
        continuous.take_new(&table, &mut settled).await?;
        bench.take(Compared { rows: 0, rechecked: report.rows, settled }, shop).await;
        match report.unsettled {
            0 => Ok(()),
            _ => Err(Trouble::new("verification", "rows of a table could not be settled")),
        }
    }
}

impl Looker for PostgresLooker {
    /// One table's rows, or one table as a whole.
    async fn look(&mut self, continuous: &Continuous) -> Result<bool, Trouble> {
        let touched = &continuous.touched;
        let of = |table: &QualifiedName| {
            self.benches.iter().find(|bench| bench.plan.name == *table).cloned()
        };
        let (table, rows) = match touched.take() {
            None => return Ok(false),
            Some(Next::Rows(table, rows)) => (table, rows),
            Some(Next::Table(table, dirty)) => {
                let Some(bench) = of(&table) else { return Ok(false) };
                let compared = self.whole(continuous, &bench).await;
                match compared {
                    Ok(()) => touched.settle(&table, Vec::new()),
                    Err(_) => {
                        touched.soil(&table, dirty);
                        touched.postpone(&table);
                    }
                }
                return compared.map(|()| true);
            }
        };
        let Some(bench) = of(&table) else { return Ok(false) };
        let mut open = Vec::new();
        let mut rows = rows.into_iter();
        loop {
            let step: Vec<_> = rows.by_ref().take(STEP_ROWS).collect();
            if step.is_empty() {
                break;
            }
            let keys = step.iter().map(|(key, _)| key.clone()).collect();
            match self.step(continuous, &bench, keys).await {
                Ok(true) => {}
                Ok(false) => open.extend(step),
                Err(trouble) => {
                    open.extend(step);
                    open.extend(rows);
                    touched.settle(&table, open);
                    touched.postpone(&table);
                    return Err(trouble);
                }
            }
        }
        let is_done = open.is_empty();
        touched.settle(&table, open);
        Ok(is_done)
    }

    fn rest(&self) -> Duration {
        REST
    }

    fn recover(&mut self) {
        self.pair = None;
    }
}
