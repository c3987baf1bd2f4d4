//! A PostgreSQL server whose clients are to be spared.

use super::gate::Watch;
use super::reader::{Reader, Trouble};
use crate::controlling::EngineReplication;

/// Sessions that are not ours and have done something in the last second. Of sessions that this role
/// may not see into it is not known: they count. A session in a transaction counts, too.
const CLIENTS: &str = "SELECT count(*) FROM pg_stat_activity \
     WHERE coalesce(backend_type, 'client backend') = 'client backend' \
       AND application_name NOT LIKE 'cutover %' \
       AND datname IS NOT NULL \
       AND (state_change IS NULL OR state_change > now() - interval '1 s' \
            OR state <> 'idle')";

/// A session on blue, and the stream from there.
pub(super) struct PostgresWatch<'a> {
    pub reader: Reader,
    pub stream: &'a EngineReplication,
}

impl Watch for PostgresWatch<'_> {
    async fn ask(&mut self) -> Result<(), Trouble> {
        self.reader.sets("SELECT 1").await.map(drop)
    }

    async fn clients(&mut self) -> Result<u64, Trouble> {
        let rows = self.reader.rows(CLIENTS).await?;
        self.reader.number(rows.first().and_then(|row| row.first()))
    }

    fn lag_seconds(&self) -> Option<f64> {
        self.stream.shared.lag_now().seconds
    }
}
