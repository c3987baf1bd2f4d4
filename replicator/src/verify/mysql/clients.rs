//! A server whose clients are to be spared.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use decoders::mysql::server::Server;

use super::side::{End, Reader, number};
use super::slices::Stream;
use crate::verify::Trouble;
use crate::verify::gate::Watch;

/// Sessions of the verification, by the source's numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours(Arc<Mutex<BTreeSet<u32>>>);

impl Ours {
    pub fn replace(&self, sessions: impl IntoIterator<Item = u32>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sessions.into_iter().collect();
    }

    fn all(&self) -> BTreeSet<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The sessions of a server, as rows. MySQL's `information_schema.processlist` can't be read while a statement
/// with a character of four bytes runs (error 3854).
pub(super) fn processes(server: &Server) -> &'static str {
    match server.is_mariadb() {
        true => "information_schema.processlist",
        false => "performance_schema.processlist",
    }
}

/// A session on the source, and the stream from there.
pub(super) struct SourceWatch<S> {
    reader: Reader,
    processes: &'static str,
    ours: Ours,
    stream: Arc<S>,
}

impl<S: Stream> SourceWatch<S> {
    pub async fn open(end: &End, ours: Ours, stream: Arc<S>) -> Result<Self, Trouble> {
        Ok(Self { reader: end.open().await?, processes: processes(&end.server), ours, stream })
    }
}

impl<S: Stream> Watch for SourceWatch<S> {
    async fn ask(&mut self) -> Result<(), Trouble> {
        self.reader.run("asking", "DO 1").await
    }

    /// Who sleeps has ended its last statement so many whole seconds ago.
    async fn clients(&mut self) -> Result<u64, Trouble> {
        let mut ours = self.ours.all();
        ours.extend(self.stream.sessions());
        let ours: Vec<String> = ours.iter().map(u32::to_string).collect();
        let ours = ours.iter().map(|id| format!(", {id}")).collect::<String>();
        let sql = format!(
            "SELECT COUNT(*) FROM {}
             WHERE id NOT IN (CONNECTION_ID(){ours})
               AND user NOT IN ('system user', 'event_scheduler')
               AND command NOT IN ('Daemon', 'Binlog Dump', 'Binlog Dump GTID')
               AND (command <> 'Sleep' OR time < 1)",
            self.processes
        );
        let rows = self.reader.rows("looking for clients", &sql).await?;
        number(self.reader.side, rows.first().and_then(|row| row.first()))
    }

    fn lag_seconds(&self) -> Option<f64> {
        self.stream.lag_seconds()
    }
}
