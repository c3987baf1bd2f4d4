//! From an empty green to one that a stream can follow: definitions, rows, keys, what runs.

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, ServerUrl};

use super::{CHUNK_BYTES, Copied, RowCopy, Turn, of_source, record_copied};
use crate::backfill::{BackfillError, Cancel, ProgressSender, unless_cancelled};
use crate::config::Config;
use crate::schema::SchemaMode;
use crate::schema::mysql::{LATE_KEYS_BYTES, Notes, SchemaCopy};

/// Fills green.
#[derive(Clone, Debug)]
pub struct SetUp {
    /// From where to where, and which tables.
    pub schema: SchemaCopy,
    /// Whether definitions are copied or there already.
    pub mode: SchemaMode,
    /// Chunks copied at the same time.
    pub workers: usize,
    /// Size to aim at for one chunk, of rows on blue's disk.
    pub chunk_bytes: u64,
    /// Most bytes per second for all workers together; 0 for no limit.
    pub rate_limit_bytes_per_s: u64,
}

/// Green is filled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetUpDone {
    /// The transactions that green has: the stream begins behind it.
    pub position: BinlogPosition,
    /// What was copied; `None` if an earlier call had done it.
    pub copied: Option<Copied>,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

impl SetUp {
    /// Of a configured pipeline.
    pub fn of(config: &Config, [blue, green]: &[ServerUrl; 2]) -> Self {
        // Of both servers little is known but that each worker keeps one thread of each busy.
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let chunk = config.copy.chunk_mib.fixed().map(|mib| mib.max(1) << 20);
        Self {
            schema: SchemaCopy {
                pipeline: config.name.clone(),
                blue: blue.clone(),
                green: green.clone(),
                database: blue.database().or(green.database()).map(str::to_owned),
                filter: config.tables.clone(),
                late_keys_bytes: LATE_KEYS_BYTES,
            },
            mode: config.schema.mode,
            workers: config.copy.workers.count_or(cores.clamp(2, 8)),
            chunk_bytes: chunk.unwrap_or(CHUNK_BYTES),
            rate_limit_bytes_per_s: config.copy.rate_limit_bytes_per_s,
        }
    }

    /// Does everything that is not done yet. May be called again after any end of the process: what is
    /// finished stays, what was begun is gone on with, and a green that is complete gives its position
    /// again.
    ///
    /// Triggers are not there yet and events are disabled:
    /// [`Automation`](crate::schema::mysql::Automation) brings them at the flip.
    ///
    /// # Errors
    /// After a retryable one it goes on when this is called again.
    pub async fn run(
        &self,
        progress: &ProgressSender,
        cancel: &Cancel,
    ) -> Result<SetUpDone, BackfillError> {
        let mut green = server::connect(&self.schema.green).await.map_err(of_source)?;
        let notes = Notes::of(self.schema.pipeline.clone());
        if let Some(position) = notes.copied(&mut green).await? {
            return Ok(SetUpDone { position, copied: None, warnings: Vec::new() });
        }
        let turn = Turn::take(&self.schema.green, &notes).await?;
        let copies = self.mode == SchemaMode::Copy;
        let definitions = async {
            match copies {
                true => self.schema.make_tables(progress).await,
                false => self.schema.find_tables().await,
            }
        };
        let made = unless_cancelled(cancel, definitions).await?;
        let mut warnings = made.warnings;
        let rows = RowCopy {
            epoch: turn.epoch().clone(),
            blue: self.schema.blue.clone(),
            green: self.schema.green.clone(),
            tables: made.tables,
            database: self.schema.database.clone(),
            filter: self.schema.filter.clone(),
            workers: self.workers,
            chunk_bytes: self.chunk_bytes,
            rate_limit_bytes_per_s: self.rate_limit_bytes_per_s,
        };
        let copied = rows.run(progress, cancel).await?;
        if copies {
            unless_cancelled(cancel, self.schema.add_keys(progress)).await?;
            warnings.extend(unless_cancelled(cancel, self.schema.make_stored(progress)).await?);
        }
        // The session of the beginning may have been idle for longer than green allows.
        let mut green = server::connect(&self.schema.green).await.map_err(of_source)?;
        record_copied(&mut green, turn.epoch()).await?;
        Ok(SetUpDone { position: copied.position.clone(), copied: Some(copied), warnings })
    }
}
