//! Random-key updates: 1 M of them over 1 M rows, in transactions of 10. Each changes the one
//! indexed column, so none is HOT.

use anyhow::Result;
use tests::bench::catchup::Workload;
use tests::bench::pair::Pair;

const ROWS: u64 = 1_000_000;
const UPDATES: u64 = 1_000_000;
const UPDATES_PER_TRANSACTION: u64 = 10;

pub struct Update;

impl Workload for Update {
    async fn prepare(&self, pair: &Pair) -> Result<()> {
        let rows = pair.options().scaled(ROWS);
        let sql = format!(
            "CREATE TABLE players (
                 id bigint PRIMARY KEY, score int NOT NULL, changed timestamptz, note text NOT NULL);
             INSERT INTO players
             SELECT n, (random() * 1e6)::int, NULL, md5(n::text) FROM generate_series(1, {rows}) n;
             CREATE INDEX ON players (score)"
        );
        pair.on_blue(&sql).await
    }

    async fn backlog(&self, pair: &Pair) -> Result<u64> {
        let rows = pair.options().scaled(ROWS);
        let transactions = pair.options().scaled(UPDATES).div_ceil(UPDATES_PER_TRANSACTION);
        let sql = format!(
            "DO $$ DECLARE key bigint; BEGIN
               FOR i IN 1..{transactions} LOOP
                 FOR j IN 1..{UPDATES_PER_TRANSACTION} LOOP
                   key := 1 + (random() * ({rows} - 1))::bigint;
                   UPDATE players SET score = (random() * 1e6)::int, changed = clock_timestamp()
                   WHERE id = key;
                 END LOOP;
                 COMMIT;
               END LOOP;
             END $$"
        );
        pair.on_blue(&sql).await?;
        Ok(transactions * UPDATES_PER_TRANSACTION)
    }

    fn changes_per_unit(&self) -> f64 {
        1.0
    }
}
