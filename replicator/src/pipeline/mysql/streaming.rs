//! One attempt at streaming: connect both ends, find out where to go on, run.

use std::sync::Arc;

use decoders::mysql::catalog;
use decoders::mysql::server::{self, Conn, Server};
use decoders::mysql::stream::{NumberedStream, StreamOptions};
use decoders::mysql::{Ledger, Place};
use sha2::{Digest, Sha256};
use sinks::Target;
use sinks::mysql::{BinlogStreamIdentity, MysqlTarget, MysqlTargetOptions, logs_cascades};
use sinks::own::MESSAGE_PREFIX;
use tokio::sync::watch;

use super::{BinlogPipeline, lag, markers};
use crate::backfill::mysql::of_catalog;
use crate::config::{DdlMode, RowEventsMode};
use crate::engine::apply::{Applier, BatchLimits};
use crate::engine::copied_at::CopiedAt;
use crate::engine::own::Counterpart;
use crate::engine::resume::{self, Broken, Known};
use crate::engine::stream::{self, Outcome, StreamContext};
use crate::pipeline::failure::Failure;
use crate::pipeline::life;
use crate::schema::mysql::Automation;
use crate::store::{Checkpoint, Role};

impl BinlogPipeline {
    /// Streams until stopped, or until something fails.
    pub(super) async fn stream(&self) -> Result<Outcome, Failure> {
        // What `turn` could not do, because the side that was left did not answer then: see
        // `Route::quiets_by_itself`.
        let carries_back = self.copy.is_none() && self.store.role()? == Role::Carry;
        if carries_back && !self.apply.accept_triggers {
            let ends = [&self.source, &self.target];
            Automation::of(self.name.clone(), ends, self.tables.clone()).quiet().await?;
        }
        let mut blue = server::connect(&self.source).await?;
        let source = Server::read(&mut blue).await?;
        markers::make_table(&mut blue, &self.name).await;
        let setting_logs_cascades = logs_cascades(&mut blue, &source).await?;
        let stream = self.identity(server::identity(&mut blue, &source).await?).await?;
        // What is drawn from a sequence is a change of its row; the flip sets sequences, and no target takes
        // such a row. One that is made later stops the stream as a statement.
        let sequences = catalog::sequences(&mut blue).await;
        let sequences = sequences.map_err(|error| of_catalog("blue", error))?;
        leave(blue).await;
        let options = MysqlTargetOptions {
            stream: stream.clone(),
            accept_triggers: self.apply.accept_triggers,
            applies_definitions: self.apply.ddl == DdlMode::Apply,
            row_events: self.apply.row_events == RowEventsMode::Auto,
        };
        let target = MysqlTarget::open(self.target.clone(), options).await?;
        let green = target.progress().await?;
        let checkpoint = self.checkpoint(&stream)?;
        let place = newest(target.place(), checkpoint.as_ref());
        let mut at = resume::resume(Known {
            consistent_point: Ledger::START,
            green,
            checkpoint,
            // A server keeps its binlog by its own rules: there is nothing that could be moved on.
            slot: Ledger::START,
        })
        .map_err(|broken| Failure { remedy: Some(REMEDY.to_owned()), ..broken_off(broken) })?;
        at.from = at.from.max(place.number);
        // The drain has proven that everything before it was durable; whatever passes the gate here is
        // written over what clients have written since.
        if let Role::Standby { since, .. } = self.store.role()?
            && at.from < since
        {
            return Err(Failure::halt(
                "stream",
                format!(
                    "it stands by behind transaction {} and would go on at {}: what lies between was \
                     applied before the roles were changed",
                    since.0, at.from.0
                ),
                "green's progress was changed, or is that of a backup: make a new copy",
            ));
        }
        let from = place.position.to_string();
        let counterpart = Counterpart::of_binlog(&self.counterpart, &self.source).await;
        let counterpart = counterpart
            .map_err(|error| Failure { place: "blue".into(), ..Failure::from(error) })?;
        let unproven_until = counterpart.unproven_until();
        let options = StreamOptions { left_out: sequences, unproven_until, ..self.options() };
        let reader = NumberedStream::open(&self.source, options, place, MESSAGE_PREFIX);
        let mut reader = reader.await?;
        let source_logs_cascades = setting_logs_cascades && reader.version_logs_cascades();
        target.follow(reader.ledger(), source_logs_cascades);
        tracing::info!(
            pipeline = self.name,
            source = %source,
            from,
            number = at.from.0,
            source_logs_cascades,
            "streaming"
        );
        let lanes_open = watch::Sender::new(false);
        let handover = watch::Sender::new(false);
        let context = StreamContext {
            store: self.store.clone(),
            positions: Some(reader.ledger()),
            progress: Arc::clone(&self.shared.progress),
            totals: self.shared.totals.clone(),
            touched: Arc::clone(&self.shared.touched),
            tables: self.tables.clone(),
            copied_at: CopiedAt::default(),
            gate: self.shared.gate.clone(),
            hold: self.shared.hold.clone(),
            counterpart,
            lanes_open: lanes_open.clone(),
            budget: self.shared.budget.clone(),
            limits: BatchLimits {
                bytes: self.apply.batch_bytes(),
                transactions: self.apply.batch_transactions,
            },
            lanes: self.apply.lanes,
            applier: Applier::Apart,
            handover: handover.subscribe(),
        };
        self.shared.counts_transactions(reader.ledger());
        self.reading.begins(reader.ledger());
        self.shared.healed();
        let ending = watch::Sender::new(false);
        let mut stop = ending.subscribe();
        let ledger = reader.ledger();
        let ran = {
            let run = stream::run(&mut reader, Arc::new(target), at, &context, &mut stop);
            let enters = async {
                let mut opened = lanes_open.subscribe();
                if opened.wait_for(|open| *open).await.is_ok() {
                    self.shared.runs(true);
                }
                std::future::pending::<()>().await
            };
            let (mut stopped, mut finished) = (self.stop.clone(), self.finished.clone());
            let ends = async {
                tokio::select! {
                    () = life::turns(&mut stopped) => {}
                    () = life::turns(&mut finished) => {}
                }
                ending.send_replace(true);
                // What is under way ends in order; `run` then returns.
                std::future::pending::<()>().await
            };
            tokio::select! {
                ran = run => ran,
                () = ends => unreachable!("never returns"),
                () = enters => unreachable!("never returns"),
                () = lag::watch(&self.shared, &self.reading, &self.source, &ledger) => unreachable!("never returns"),
            }
        };
        reader.close().await;
        Ok(ran?)
    }

    /// The stream that is to be applied from a server that is called `source`.
    async fn identity(&self, source: String) -> Result<BinlogStreamIdentity, Failure> {
        let known = MysqlTarget::registered(&self.target, &self.name).await?;
        let start = match (&self.start, &known) {
            // A stream that was armed anew begins behind its copy.
            (_, Some(known)) if self.copy.is_some() => known.start.clone(),
            (Some(start), _) => start.clone(),
            (None, Some(known)) => known.start.clone(),
            (None, None) => {
                return Err(Failure::halt(
                    "green",
                    format!(
                        "green knows no copy of pipeline {:?}, so there is nothing to go on with",
                        self.name
                    ),
                    "make a copy first, and give the position where it ends",
                ));
            }
        };
        let stream = BinlogStreamIdentity { pipeline: self.name.clone(), source, start };
        match known {
            Some(known) if known.source != stream.source => Err(Failure::halt(
                "blue",
                format!(
                    "pipeline {:?} reads the server {}; this one is {}, and another server may have \
                     written the same transactions in another order",
                    self.name, known.source, stream.source
                ),
                "point blue at the server that was copied; after a failover make a new copy",
            )),
            _ => Ok(stream),
        }
    }

    /// The checkpoint of this stream; one of another stream is never looked at.
    fn checkpoint(&self, stream: &BinlogStreamIdentity) -> Result<Option<Checkpoint>, Failure> {
        let checkpoint = self.store.checkpoint()?;
        match self.store.binlog_stream()? {
            Some(known) if known == *stream => Ok(checkpoint),
            None if checkpoint.is_none() => {
                self.store.save_binlog_stream(stream)?;
                Ok(None)
            }
            _ => Err(Failure::halt(
                "state directory",
                format!(
                    "{} belongs to another stream than the one of pipeline {:?} that green holds",
                    self.store.path().display(),
                    self.name
                ),
                "give this pipeline a --state-dir of its own. A new one is as good: green knows how far \
                 it is",
            )),
        }
    }

    fn options(&self) -> StreamOptions {
        let name = format!("cutover {}", self.name);
        let mut options = StreamOptions::new(replica_id(&self.name), name);
        options.filter = self.tables.clone();
        options.database = self.database.clone();
        options.keeps_images = self.apply.row_events == RowEventsMode::Auto;
        options.part_bytes = options.part_bytes.min(self.apply.memory_bytes / 4);
        options
    }
}

/// The `server_id` by which a pipeline reads a binlog. The same for each life, so that the server ends the
/// connection of an earlier one; in the upper half, because people number their servers from below.
pub fn replica_id(pipeline: &str) -> u32 {
    let digest = Sha256::digest(format!("cutover {pipeline}"));
    digest.iter().take(4).fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) | 1 << 31
}

/// Where to ask the source to go on.
fn newest(green: Place, checkpoint: Option<&Checkpoint>) -> Place {
    let of_checkpoint = checkpoint.and_then(|checkpoint| {
        let position = checkpoint.position.as_ref()?.parse().ok()?;
        Some(Place { number: checkpoint.durable, position })
    });
    match of_checkpoint {
        Some(place) if place.number > green.number => place,
        _ => green,
    }
}

const REMEDY: &str = "blue is untouched and serving. The copy has to be made again";

fn broken_off(broken: Broken) -> Failure {
    Failure { place: "green".to_owned(), ..Failure::from(broken) }
}

async fn leave(conn: Conn) {
    if let Err(error) = conn.disconnect().await {
        tracing::debug!(reason = %error, "a connection to blue was not closed in order");
    }
}

#[cfg(test)]
mod tests {
    use decoders::Lsn;

    use super::*;

    #[test]
    fn the_newest_place_is_asked_for() {
        let place =
            |number, text: &str| Place { number: Lsn(number), position: text.parse().unwrap() };
        let checkpoint = |number, text: &str| Checkpoint {
            durable: Lsn(number),
            applied_transaction: Lsn(1),
            position: Some(text.to_owned()),
        };
        let green = place(5, "0-1-9");
        assert_eq!(newest(green.clone(), None), green);
        assert_eq!(newest(green.clone(), Some(&checkpoint(4, "0-1-8"))), green);
        assert_eq!(newest(green.clone(), Some(&checkpoint(7, "0-1-11"))), place(7, "0-1-11"));
        assert_eq!(newest(green.clone(), Some(&checkpoint(7, "nonsense"))), green);
    }
}
