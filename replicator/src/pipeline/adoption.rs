//! A state directory that was lost: what green and blue still know is enough to go on.
//!
//! Green's `_cutover.stream` is written when the stream begins, so a registered stream has all its
//! rows on green, and its progress row says how far it is. The slot on blue still holds everything
//! after that. What can't be known any more is how far an idle blue was told to forget; it is taken
//! from the slot, and a slot that somebody else moved at the same time would not be noticed.

use decoders::Lsn;
use decoders::postgres::wire::ReplicationConnection;
use decoders::postgres::{session, slot};
use sinks::postgres::{PgFlusher, target_error};
use sinks::{Flusher as _, Reached, progress};

use super::Pipeline;
use super::copying::identify;
use super::failure::{Failure, of_connect};
use crate::store::{Checkpoint, Stage};

impl Pipeline {
    /// Takes up a stream that this pipeline's earlier life left on both servers. False if there is
    /// none, or if a server does not answer: the preflight then says so.
    ///
    /// # Errors
    /// A server's, or the store's.
    pub(super) async fn adopt(&mut self) -> Result<bool, Failure> {
        let name = self.config.application_name();
        let green = session::connect(&self.ends.target, &name).await;
        let Ok(green) = green else { return Ok(false) };
        let fail = |error| target_error("looking for an earlier stream on green", &error);
        let there = "SELECT pg_catalog.to_regclass('_cutover.stream') IS NOT NULL, \
                     pg_catalog.to_regclass('_cutover.decision') IS NOT NULL";
        let row = green.query_one(there, &[]).await.map_err(fail)?;
        let (has_stream, has_decision): (bool, bool) = (row.get(0), row.get(1));
        if !has_stream {
            return Ok(false);
        }
        let Some(stream) = progress::registered(&green, &self.config.name).await? else {
            return Ok(false);
        };
        if has_decision {
            let sql = "SELECT EXISTS (SELECT FROM _cutover.decision WHERE verdict = 'commit')";
            if green.query_one(sql, &[]).await.map_err(fail)?.get::<_, bool>(0) {
                return Err(Failure::halt(
                    "green",
                    "the state directory is new, and green says that this pipeline has cut over",
                    "nothing: clients belong on green. To begin anew: replicator teardown",
                ));
            }
        }
        let blue = session::connect(&self.ends.source, &name).await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let Some(found) = slot::inspect(&blue, &stream.slot).await? else { return Ok(false) };
        let replication = ReplicationConnection::connect(&self.ends.source, &name).await;
        let mut replication = replication.map_err(|error| of_connect("blue", &error))?;
        let source = identify(&mut replication).await?;
        if source.system_id.to_string() != stream.system_identifier {
            return Err(Failure::halt(
                "blue",
                format!(
                    "green follows another server: system identifier {}, blue is {}",
                    stream.system_identifier, source.system_id
                ),
                "point blue.url at the right server",
            ));
        }
        self.store.save_source(&source)?;
        let applied = progress::read(&green, &self.config.name).await?;
        let applied = Reached::by(applied.iter().map(|lane| &lane.mark));
        // What is recorded below may not be lost by a crash of green.
        let mut flusher = PgFlusher::on(green, &self.config.name).await?;
        flusher.flush(applied.through.unwrap_or(Lsn::INVALID)).await?;
        let transaction = applied
            .through
            .map_or(stream.consistent_point, |through| through.max(stream.consistent_point));
        let durable = found.confirmed_flush_lsn.unwrap_or(transaction).max(transaction);
        tracing::warn!(
            pipeline = self.config.name,
            state_dir = %self.config.state_dir.display(),
            from = %durable,
            "the state directory is new, but green and blue hold this pipeline's stream: going on with it"
        );
        self.store.save_checkpoint(&Checkpoint {
            durable,
            applied_transaction: transaction,
            position: None,
        })?;
        self.store.save_stage(&Stage::Streaming { stream })?;
        Ok(true)
    }
}
