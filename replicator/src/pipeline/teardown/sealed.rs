//! A side that a run of this pipeline has closed: teardown comes in through its airlock, and leaves it as
//! closed as it was. Who opens it is a person, who is told how.

use std::time::Duration;

use cutover::Side;
use cutover::fence::PostgresFence;
use cutover::lease::Tenant;
use cutover::ports::{Claimed, Fence, PortError};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use sinks::postgres::target_error;
use tokio::time::Instant;

use super::super::failure::{Failure, is_closed, of_connect};
use crate::config::Config;

/// Finding who has closed it, opening the airlock, closing it.
const ACT: Duration = Duration::from_secs(10);

/// One side of a teardown.
pub(super) struct Entrance {
    side: Side,
    info: ConnInfo,
    fence: PostgresFence,
    /// What all steps there use, as long as it lives.
    session: Option<Session>,
    /// Who has closed it, once that was seen.
    claimed: Option<Claimed<<PostgresFence as Fence>::Undo>>,
}

impl Entrance {
    /// `side` of the pipeline. `info` leads there.
    pub fn new(config: &Config, side: Side, info: ConnInfo) -> Self {
        let tenant = Tenant { pipeline: config.name.clone(), holder: "teardown".into() };
        let fence = PostgresFence::around(side, info.clone(), config.publication());
        Self { side, info, fence: fence.leased_to(tenant), session: None, claimed: None }
    }

    /// The session there, which may write. If nobody is let in because a run of this pipeline has sealed it, the
    /// door is open for this session alone, and for as long as it takes to connect.
    pub async fn enter(&mut self) -> Result<&Session, Failure> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => {
                let session = self.connect().await?;
                // A side that was cut over is read-only by default; what goes here is our own.
                let writable = session.batch_execute("SET default_transaction_read_only = off");
                writable
                    .await
                    .map_err(|error| target_error("making the session writable", &error))?;
                session
            }
        };
        Ok(self.session.insert(session))
    }

    async fn connect(&mut self) -> Result<Session, Failure> {
        const NAME: &str = "cutover teardown";
        let side = self.side.name();
        let error = match session::connect(&self.info, NAME).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if !is_closed(&error) {
            return Err(of_connect(side, &error));
        }
        let failed = |error: PortError| Failure::halt(side, error.to_string(), open_by_hand(side));
        let deadline = Instant::now() + ACT;
        let found = self.fence.claimed(deadline).await.map_err(failed)?;
        let Some(claimed) = found else {
            let what = format!(
                "{side} lets nobody in, and its comment does not say that a run of this pipeline has \
                 closed it"
            );
            return Err(Failure::halt(side, what, open_by_hand(side)));
        };
        let claimed = self.claimed.insert(claimed);
        let guard = self.fence.airlock(&claimed.undo, deadline).await.map_err(failed)?;
        let session = session::connect(&self.info, NAME).await;
        drop(guard);
        session.map_err(|error| of_connect(side, &error))
    }

    /// Closes it behind us, if we have opened it, and says how it is left.
    pub async fn leave(self) -> Result<Vec<String>, Failure> {
        let side = self.side.name();
        let Some(Claimed { claim, undo }) = self.claimed else { return Ok(Vec::new()) };
        let closed = self.fence.reseal(&undo, Instant::now() + ACT).await;
        closed.map_err(|error| {
            let what = format!("{side} may be open: it could not be closed again: {error}");
            Failure::halt(side, what, "replicator teardown, again: it closes it")
        })?;
        let acts = self.fence.describe(&undo).lower.into_iter().map(|act| act.text);
        let opens = |sql: &String| !sql.starts_with("SELECT");
        let statements: Vec<_> = acts.filter(opens).collect();
        Ok(vec![
            format!(
                "{side}: left closed, as {claim} has sealed it; it was opened for our own sessions alone, \
                 and only while they connected"
            ),
            format!(
                "{side}: nobody opens it but you, from another database: {}",
                statements.join("; ")
            ),
        ])
    }
}

fn open_by_hand(side: &str) -> String {
    format!(
        "make sure that nobody writes to {side}; then, there and from another database: ALTER DATABASE .. \
         ALLOW_CONNECTIONS true; then replicator teardown, again"
    )
}
