//! Where a repair is done, and when nothing may be written any more.

use cutover::Side;
use decoders::source::Disposition;
use sinks::TargetError;
use sinks::mysql::Repairer;
use tokio::sync::watch;

use super::super::engine::EngineStream;
use super::super::found::Found;
use super::super::plan::{SOURCE, TARGET};
use super::super::side::End;
use crate::status::Shared;
use crate::verify::Trouble;
use crate::verify::repair::Standing;
use crate::verify::turning::until_refused;

/// The table of decisions may not be there yet.
const HAS_DECISIONS: &str = "SELECT COUNT(*) FROM information_schema.tables \
     WHERE table_schema = '_cutover' AND table_name = 'decision'";
/// A side is opened by a row here ([`cutover::decision`]).
const DECIDED: &str =
    "SELECT COALESCE(MAX(epoch), 0) FROM _cutover.decision WHERE verdict = 'commit'";

/// Two servers, the stream between them, and the session that writes.
pub(super) struct Site {
    pub ends: [End; 2],
    pub stream: EngineStream,
    pipeline: String,
    standing: Standing,
    repairer: Option<Repairer>,
    /// The last epoch that was decided on the target when the repair began.
    decided: Option<u64>,
}

impl Site {
    pub async fn open(found: &Found, standing: Standing) -> Result<Self, Trouble> {
        Ok(Self {
            ends: found.ends().await?,
            stream: found.pair.stream.clone(),
            pipeline: found.pair.pipeline.clone(),
            standing,
            repairer: None,
            decided: None,
        })
    }

    pub fn both(&self) -> [&End; 2] {
        [&self.ends[SOURCE], &self.ends[TARGET]]
    }

    /// The side that is written to.
    pub fn target(&self) -> Side {
        self.ends[TARGET].side
    }

    /// The session that writes, opened anew if it is lost.
    pub async fn pen(&mut self) -> Result<&mut Repairer, Trouble> {
        let side = self.target();
        if self.repairer.as_ref().is_none_or(Repairer::is_lost) {
            let opened = Repairer::open(&self.ends[TARGET].url, &self.pipeline).await;
            let mut repairer = opened.map_err(|error| trouble(side, &error))?;
            let decided = decided(side, &mut repairer).await?;
            self.decided.get_or_insert(decided);
            self.repairer = Some(repairer);
        }
        self.repairer.as_mut().ok_or_else(|| Trouble::unexpected(side, "no session"))
    }

    /// The connection ends, and with it whatever it was doing.
    pub fn lose_pen(&mut self) {
        self.repairer = None;
    }

    /// Why nothing may be written now.
    pub fn standing(&self) -> Option<String> {
        refusal(&self.stream.shared, &self.standing)
    }

    /// Ends when nothing may be written any more, or nobody wants it to go on: whoever waits or holds is in
    /// the way then.
    pub fn ended(&self, stop: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + use<> {
        let (mut stop, standing) = (stop.clone(), self.standing.clone());
        let shared = self.stream.shared.clone();
        async move {
            let stopped = async {
                if stop.wait_for(|stop| *stop).await.is_err() {
                    // Nobody can stop it any more.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = stopped => {}
                _ = until_refused(&shared, || refusal(&shared, &standing)) => {}
            }
        }
    }

    /// # Errors
    /// Nothing may be written now.
    pub fn may_write(&self) -> Result<(), Trouble> {
        self.standing().map_or(Ok(()), |why| Err(Trouble::new("repair", why)))
    }

    /// The same, and the target asked, in the transaction that is to write.
    pub async fn may_commit(&mut self) -> Result<(), Trouble> {
        self.may_write()?;
        let (side, at_begin) = (self.target(), self.decided);
        let Some(repairer) = self.repairer.as_mut() else {
            return Err(Trouble::unexpected(side, "no session"));
        };
        match decided(side, repairer).await? {
            now if Some(now) == at_begin => Ok(()),
            _ => Err(Trouble::new(side, "a run has decided which side serves")),
        }
    }
}

/// Why nothing may be written on what this stream feeds.
fn refusal(shared: &Shared, standing: &Standing) -> Option<String> {
    match *shared.carries.borrow() {
        true => standing(),
        false => Some("the stream has changed its direction".into()),
    }
}

async fn decided(side: Side, repairer: &mut Repairer) -> Result<u64, Trouble> {
    let mut number = async |sql: &str| {
        let rows = repairer.rows(sql).await.map_err(|error| trouble(side, &error))?;
        super::super::side::number(side, rows.first().and_then(|row| row.first()))
    };
    match number(HAS_DECISIONS).await? {
        0 => Ok(0),
        _ => number(DECIDED).await,
    }
}

/// The engine calls its target green.
pub(super) fn trouble(side: Side, error: &TargetError) -> Trouble {
    let is_transient = error.disposition == Disposition::Retry;
    Trouble { is_transient, ..Trouble::new(side, error.message.clone()) }
}
