//! A stream as the way back of the runs that go in the other direction.

use std::time::Duration;

use cutover::api::{Act, Check};
use cutover::evidence::Committed;
use cutover::marker::{MarkerKind, Token};
use cutover::ports::{
    Leaks, MarkerDecoded, MarkerWritten, PortError, PortResult, Replication as _, Standby,
    WayBackStream,
};
use decoders::Lsn;
use decoders::postgres::session::{self, Session};
use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::PgLsn;

use crate::controlling::{EngineReplication, of_failure};
use crate::probe;

/// A way back that is further behind is not ready, seconds.
const LAG_SECONDS_MAX: f64 = 1.0;

impl WayBackStream for EngineReplication {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        let mut checks = self.route.inspect(&self.store).await?;
        checks.extend(self.look_for_strangers());
        Ok(checks)
    }

    async fn arm(&self, _token: &Token, deadline: Instant) -> PortResult<String> {
        let arming = async {
            let armed = self.route.arm(&self.store).await;
            let armed = armed.map_err(|failure| of_failure(self.route.ends.put(failure)))?;
            self.open_marker().await?;
            self.becomes_hot().await?;
            Ok(armed)
        };
        let armed = tokio::time::timeout_at(deadline, arming).await;
        armed.unwrap_or_else(|_| {
            let why = self.standby().blocked.unwrap_or_else(|| "it has no reason to give".into());
            Err(PortError::new("way back", format!("it was not ready in time: {why}")))
        })
    }

    fn standby(&self) -> Standby {
        let lag = self.shared.lag_now();
        let blocked = match lag.seconds {
            _ if !*self.shared.hot.borrow() => {
                let doing = || format!("it does not stream ({})", self.shared.phase().name());
                Some(self.shared.trouble().unwrap_or_else(doing))
            }
            None => Some("its lag is not known".into()),
            Some(seconds) if seconds > LAG_SECONDS_MAX => {
                Some(format!("it is {seconds:.1} s behind"))
            }
            Some(_) => None,
        };
        Standby { blocked, foreign: self.foreign() }
    }

    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        let written = tokio::time::timeout_at(deadline, self.write(token)).await;
        let (xid, _) = written.map_err(|_| self.late(&format!("the marker {token}")))??;
        Ok(MarkerWritten::new(token.clone(), xid))
    }

    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        cutover::ports::Replication::await_decoded(self, token, deadline).await
    }

    async fn turn(&self, proof: &Committed, token: &Token, since: Lsn) -> PortResult<()> {
        if proof.to() != self.route.ends.direction.from() {
            return Err(PortError::new(
                "stream",
                format!("{} serves, and this stream does not leave it", proof.to()),
            ));
        }
        let (store, marker) = (self.store.clone(), token.clone());
        let turned = tokio::task::spawn_blocking(move || store.turn(&marker, since)).await;
        let turned =
            turned.map_err(|error| PortError::new("state directory", error.to_string()))?;
        turned.map_err(|error| {
            PortError::new("state directory", error.to_string())
                .remedy(error.remedy())
                .caused_by(error)
        })?;
        // First the one that must not apply any more.
        self.peer.stand_by(token, since);
        self.shared.carry();
        Ok(())
    }

    async fn beat(&self, token: &Token, deadline: Instant) -> PortResult<Duration> {
        let began = Instant::now();
        let arriving = async {
            let (_, end) = self.write(token).await?;
            let mut progress = self.shared.progress.subscribe();
            let arrived = progress.wait_for(|frontier| frontier.durable() >= end).await;
            arrived.map(drop).map_err(|_| PortError::new("stream", "the engine is gone"))
        };
        let arrived = tokio::time::timeout_at(deadline, arriving).await;
        arrived.map_err(|_| {
            let trouble = self.shared.trouble().map_or(String::new(), |why| format!(": {why}"));
            let late = self.late(&format!("the sign of life {token}"));
            PortError::new(late.place, format!("{}{trouble}", late.what))
        })??;
        Ok(began.elapsed())
    }

    fn describe(&self) -> Vec<Act> {
        self.route.describe()
    }
}

impl EngineReplication {
    /// Row changes that came although the stream stands by.
    fn foreign(&self) -> Leaks {
        match *self.shared.carries.borrow() {
            true => Leaks::default(),
            false => self.leaks(),
        }
    }

    /// Whether somebody else has written to the side that must not be written, as far as this
    /// stream has read. Nothing while nobody reads.
    fn look_for_strangers(&self) -> Option<Check> {
        const NAME: &str = "foreign-writes";
        let (source, target) = (self.source(), self.route.ends.direction.to());
        if *self.shared.carries.borrow() || !*self.shared.hot.borrow() {
            return None;
        }
        let foreign = self.foreign();
        if foreign.count == 0 {
            let seen = format!("nobody else has written to {source} since the way back was armed");
            return Some(Check::ok(NAME, seen));
        }
        let slot = self.route.config.slot();
        Some(Check::fail(
            NAME,
            format!(
                "{source} was written by somebody else: {} row changes, the first: {}. {source} may \
                 differ from {target} there",
                foreign.count,
                foreign.first.as_deref().unwrap_or("unknown")
            ),
            format!(
                "find out who writes to {source}, and make its rows equal to {target}'s again. Then \
                 say so: stop the sidecar, SELECT pg_drop_replication_slot('{slot}') on {source}, \
                 and start it; the next run arms the way back anew"
            ),
        ))
    }

    /// Waits until the stream has read everything that was there when it began to wait.
    async fn becomes_hot(&self) -> PortResult<()> {
        let gone = || PortError::new("stream", "the engine is gone");
        let mut hot = self.shared.hot.subscribe();
        hot.wait_for(|hot| *hot).await.map_err(|_| gone())?;
        let head = {
            let kept = self.route.marker.lock().await;
            let session = kept.as_ref().ok_or_else(gone)?;
            probe::head(session).await.map_err(|why| PortError::new(self.source(), why))?
        };
        let mut progress = self.shared.progress.subscribe();
        // Foreign changes are held, and what is behind them is only received.
        progress.wait_for(|frontier| frontier.received() >= head).await.map_err(|_| gone())?;
        Ok(())
    }

    fn source(&self) -> &'static str {
        self.route.ends.direction.from().name()
    }

    /// The session that writes markers, before the window in which it is needed.
    async fn open_marker(&self) -> PortResult<()> {
        let mut kept = self.route.marker.lock().await;
        if kept.as_ref().is_none_or(|session| session.is_closed()) {
            *kept = Some(self.connect().await?);
        }
        Ok(())
    }

    async fn connect(&self) -> PortResult<Session> {
        let ends = &self.route.ends;
        let _guard = self.route.door.enter(ends.direction.from()).await?;
        let session = session::connect(&ends.source, "cutover marker").await;
        let session = session.map_err(|error| PortError::new(self.source(), error.to_string()))?;
        let writable = "SET default_transaction_read_only = off; SET synchronous_commit = on";
        session.batch_execute(writable).await.map_err(|error| self.unwritten(&error))?;
        Ok(session)
    }

    fn unwritten(&self, error: &tokio_postgres::Error) -> PortError {
        let what = format!("the marker can't be written: {}", session::describe(error));
        PortError::new(self.source(), what)
    }

    /// Commits a marker on this stream's source, flushed: its transaction id and a position behind
    /// its end.
    async fn write(&self, token: &Token) -> PortResult<(u64, Lsn)> {
        let mut kept = self.route.marker.lock().await;
        // Taken out: a call that is given up half-way leaves none behind.
        let session = match kept.take() {
            Some(session) if !session.is_closed() => session,
            _ => self.connect().await?,
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
}
