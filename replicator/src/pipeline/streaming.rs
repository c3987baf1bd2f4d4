//! One attempt at streaming: connect both ends, find out where to resume, run, and watch that
//! blue's tables stay what they were.

use std::sync::Arc;

use cutover::api::PipelinePhase;
use decoders::postgres::stream::{PgStream, StreamOptions};
use decoders::postgres::{session, slot};
use sinks::Target;
use sinks::postgres::{PgTarget, PgTargetOptions};
use sinks::progress::StreamIdentity;
use tokio::sync::watch;

use super::failure::{Failure, of_connect};
use super::{Pipeline, drift};
use crate::engine::apply::BatchLimits;
use crate::engine::resume::{self, Known};
use crate::engine::stream::{self, StreamContext};

impl Pipeline {
    /// Streams until stopped, finished, or an error.
    pub(super) async fn stream(&mut self, identity: StreamIdentity) -> Result<(), Failure> {
        let options = PgTargetOptions {
            stream: identity.clone(),
            use_origin: true,
            accept_triggers: self.config.apply.accept_triggers,
        };
        let target = PgTarget::open(self.green.clone(), options).await?;
        let green = target.progress().await?;
        let blue = session::connect(&self.blue, "cutover setup").await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let found = slot::inspect(&blue, &identity.slot).await?;
        let found = found.filter(|slot| !slot.is_lost()).ok_or_else(|| {
            Failure::halt(
                "blue",
                format!("the replication slot {} is gone or was invalidated", identity.slot),
                resume::Broken::REMEDY,
            )
        })?;
        let at = resume::resume(Known {
            consistent_point: identity.consistent_point,
            green,
            checkpoint: self.store.checkpoint()?,
            slot: found.confirmed_flush_lsn.unwrap_or(identity.consistent_point),
        })?;
        let mut options = StreamOptions::new(
            identity.slot.clone(),
            vec![self.config.publication()],
            self.config.application_name(),
        );
        options.start = Some(at.from);
        let mut source = PgStream::open(&self.blue, options).await?;
        check_identity(&source, &identity)?;
        tracing::info!(
            pipeline = self.config.name,
            from = %at.from,
            binary = source.is_binary(),
            triggers = ?target.capabilities().triggers,
            "streaming"
        );
        let context = StreamContext {
            store: self.store.clone(),
            progress: Arc::clone(&self.shared.progress),
            totals: self.shared.totals.clone(),
            gate: self.shared.gate.clone(),
            budget: self.shared.budget.clone(),
            limits: BatchLimits {
                bytes: self.config.apply.batch_bytes,
                transactions: self.config.apply.batch_transactions,
            },
        };
        self.shared.enter(PipelinePhase::Streaming);
        self.shared.healed();

        let mut drifted = None;
        let ending = watch::Sender::new(false);
        let mut ending_seen = ending.subscribe();
        let ran = {
            let run = stream::run(&mut source, Arc::new(target), at, &context, &mut ending_seen);
            let ends = async {
                tokio::select! {
                    _ = self.stop.wait_for(|stop| *stop) => {}
                    _ = self.finished.wait_for(|finished| *finished) => {}
                    failure = drift::watch(&self.config.tables, &self.blue, &self.shared) => {
                        drifted = Some(failure);
                    }
                }
                ending.send_replace(true);
                // What is under way ends in order; `run` then returns.
                std::future::pending::<()>().await
            };
            tokio::select! {
                ran = run => ran,
                () = ends => unreachable!("never returns"),
            }
        };
        ran?;
        if let Some(failure) = drifted {
            return Err(failure);
        }
        // In good order, so that the slot is free for the next start at once. An error here loses
        // nothing: what was not reported is sent again.
        if let Err(error) = source.close().await {
            tracing::debug!(%error, "the stream was not closed in order");
        }
        Ok(())
    }
}

/// A stream belongs to one server. Another one under the same address (a restored backup, a
/// rebuilt host) has another history under the same numbers.
fn check_identity(source: &PgStream, identity: &StreamIdentity) -> Result<(), Failure> {
    let found = source.identity().system_id.to_string();
    if found == identity.system_identifier {
        return Ok(());
    }
    Err(Failure::halt(
        "blue",
        format!(
            "this is another server than the one the copy was made from: system identifier {found}, \
             expected {}",
            identity.system_identifier
        ),
        "point blue.url at the right server",
    ))
}
