//! The route of a stream that is read from a replication slot.

use cutover::Direction;
use cutover::api::{Act, Check};
use cutover::marker::{MarkerKind, Token};
use cutover::ports::{Handed, Leftover, PortError, PortResult, Refreshed};
use cutover::verify::Accepted;
use decoders::Lsn;
use decoders::postgres::session::{self, Session};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::PgLsn;

use super::arming::SlotRoute;
use super::failure::Failure;
use super::route::Route;
use super::unneeded;
use crate::probe;
use crate::status::Shared;
use crate::store::Store;

impl Route for SlotRoute {
    type Place = Lsn;
    type Seen = String;

    fn direction(&self) -> Direction {
        self.ends.direction
    }

    fn put(&self, failure: Failure) -> Failure {
        self.ends.put(failure)
    }

    async fn inspect(&self, store: &Store) -> PortResult<Vec<Check>> {
        self.inspected(store).await
    }

    async fn arm(&self, store: &Store, _shared: &Shared) -> Result<String, Failure> {
        self.armed_by(store).await
    }

    fn describe(&self) -> Vec<Act> {
        self.acts()
    }

    fn rearming(&self) -> String {
        format!(
            "stop the sidecar, SELECT pg_drop_replication_slot('{}') on {}, and start it",
            self.config.slot(),
            self.source()
        )
    }

    async fn open_marker(&self) -> PortResult<()> {
        let mut kept = self.marker.lock().await;
        if kept.as_ref().is_none_or(|session| session.is_closed()) {
            *kept = Some(self.marking().await?);
        }
        Ok(())
    }

    async fn mark(&self, token: &Token) -> PortResult<(u64, Lsn)> {
        let mut kept = self.marker.lock().await;
        // Taken out: a call that is given up half-way leaves none behind.
        let session = match kept.take() {
            Some(session) if !session.is_closed() => session,
            _ => self.marking().await?,
        };
        let statement = MarkerKind::for_version(session.server_version()).statement(token);
        let sql = format!(
            "BEGIN READ WRITE; {statement}; SELECT pg_catalog.txid_current(); COMMIT; \
             SELECT pg_catalog.pg_current_wal_flush_lsn()"
        );
        let answer = session.simple_query(&sql).await.map_err(|error| self.unwritten(&error))?;
        let values: Vec<&str> = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            })
            .collect();
        // The message itself answers, too, with its position.
        let read = match values.as_slice() {
            [.., xid, end] => xid.parse().ok().zip(end.parse::<PgLsn>().ok()),
            _ => None,
        };
        let (xid, end) = read.ok_or_else(|| {
            PortError::new(self.source(), "the answer to the marker's statement is incomplete")
        })?;
        *kept = Some(session);
        Ok((xid, Lsn(end.into())))
    }

    async fn head(&self) -> PortResult<Lsn> {
        let kept = self.marker.lock().await;
        let gone = || PortError::new(self.source(), "the session that writes markers is gone");
        let session = kept.as_ref().ok_or_else(gone)?;
        probe::head(session).await.map_err(|why| PortError::new(self.source(), why))
    }

    async fn position(&self, place: Lsn) -> Lsn {
        place
    }

    async fn prepare_to_know(&self) -> PortResult<()> {
        self.open_marker().await?;
        self.prepare_opening().await
    }

    async fn look_at_source(&self) -> PortResult<String> {
        self.mark_at_the_fence().await
    }

    async fn ensure_known(&self, shared: &Shared, seen: String) -> PortResult<()> {
        self.known_at_the_fence(shared, &seen).await
    }

    async fn refresh(&self, accepts: &[Accepted]) -> PortResult<Refreshed> {
        self.views_refreshed(accepts).await
    }

    async fn refreshing(&self, accepts: &[Accepted]) -> PortResult<Vec<Act>> {
        self.refreshing_acts(accepts).await
    }

    async fn bring_automation(&self) -> Result<Handed, Failure> {
        self.bring_triggers().await
    }

    fn brings_automation(&self) -> bool {
        self.has_notes()
    }

    fn bringing(&self) -> Vec<Act> {
        self.switching_on()
    }

    async fn quiet_automation(&self) -> Result<Option<String>, Failure> {
        self.quiet_triggers().await
    }

    fn quiets_by_itself(&self) -> bool {
        // A table whose triggers would fire is refused until then.
        true
    }

    fn quieting(&self) -> Vec<Act> {
        self.switching_off()
    }

    async fn remove(&self, what: Leftover) -> Result<String, Failure> {
        self.removed(what).await
    }

    async fn unneeded(&self) -> Result<Vec<String>, Failure> {
        unneeded::read(self).await
    }

    fn removal(&self, what: Leftover) -> Act {
        self.removal_of(what)
    }
}

impl SlotRoute {
    fn source(&self) -> &'static str {
        self.ends.direction.from().name()
    }

    pub(super) async fn marking(&self) -> PortResult<Session> {
        let ends = &self.ends;
        let _guard = self.door.enter(ends.direction.from()).await?;
        let session = session::connect(&ends.source, "cutover marker").await;
        let session = session.map_err(|error| PortError::new(self.source(), error.to_string()))?;
        // In a database that accepts no connections parallel workers can't start before the minor releases of
        // February 2025, which is an error of the statement.
        let writable = "SET default_transaction_read_only = off; SET synchronous_commit = on; \
             SET max_parallel_workers_per_gather = 0";
        session.batch_execute(writable).await.map_err(|error| self.unwritten(&error))?;
        Ok(session)
    }

    fn unwritten(&self, error: &tokio_postgres::Error) -> PortError {
        let what = format!("the marker can't be written: {}", session::describe(error));
        PortError::new(self.source(), what)
    }
}
