//! What a flip switches on the side that opens, while its clients wait.

use std::time::Duration;

use cutover::ports::{Handed, Nature, PortResult};

use super::super::Ends;
use super::super::arming::SlotRoute;
use super::super::failure::Failure;
use super::open;
use crate::triggers::{Switched, Triggers, Way};

/// How long a flip may take for it. Less than the flip's own time for one try, so that what can't be had in time is
/// named, and clients go on without it.
const BRINGING_MAX: Duration = Duration::from_secs(3);

/// How long a flip waits for somebody else who switches: the watch may be waiting for a server.
const OTHERS_MAX: Duration = Duration::from_millis(200);

impl SlotRoute {
    /// Opens the session that the flip needs on the target, while nobody waits.
    pub(in crate::pipeline) async fn prepare_opening(&self) -> PortResult<()> {
        if !self.has_notes() {
            return Ok(());
        }
        let mut kept = self.opening.lock().await;
        if kept.as_ref().is_none_or(|session| session.is_closed()) {
            let _guard = self.door.enter(self.ends.direction.to()).await?;
            let opened = open(&self.ends.target, "green").await;
            let opened =
                opened.map_err(|failure| crate::controlling::of_failure(self.ends.put(failure)))?;
            *kept = Some(opened);
        }
        Ok(())
    }

    /// Whether a flip has to switch something; yes if that is not known, or is being changed.
    pub(in crate::pipeline) fn has_notes(&self) -> bool {
        self.firing.is_noted(self.ends.direction.to())
            || self.firing.switching(self.ends.direction.to()).try_lock().is_err()
    }

    /// Decided, and before clients come. Whatever fails, clients are not kept waiting for it: it is named.
    ///
    /// # Errors
    /// The target lets nobody in. Whoever can opens the airlock, and calls again.
    pub(in crate::pipeline) async fn bring_triggers(&self) -> Result<Handed, Failure> {
        // Taken out: a call that is given up half-way leaves none behind.
        let kept = self.opening.lock().await.take();
        // Who has found nobody at work there, and has kept everybody out since.
        let way = if kept.is_some() { Way::Cleared } else { Way::Beside };
        let mut kept = kept.filter(|session| !session.is_closed());
        let triggers = Triggers::of(&self.config, self.ends.direction);
        let to = self.ends.direction.to();
        let switching = tokio::time::timeout(OTHERS_MAX, self.firing.switching(to).lock()).await;
        let is_alone = switching.is_ok();
        if !is_alone {
            tracing::warn!("the watch is switching triggers: the flip does not wait for it");
        }
        let bringing = async {
            if let Some(session) = kept.take() {
                match triggers.bring(&session, way).await {
                    Err(error) => tracing::warn!("switching triggers: {error}"),
                    done => return Ok(done?),
                }
            }
            bring(&self.ends, &triggers, way).await
        };
        let handed = in_bounds(&self.ends, bringing).await?;
        // Whoever switches beside us may note something yet.
        self.firing.notes(to, !is_alone || !handed.missing.is_empty());
        Ok(handed)
    }
}

/// What the flip has to switch, where there is no stream: by what is noted on the side that opens.
#[derive(Clone, Debug)]
pub struct TriggersAlone {
    triggers: Triggers,
    ends: Ends,
}

impl TriggersAlone {
    /// Of the stream of this name.
    pub fn of(
        pipeline: &str,
        filter: decoders::postgres::catalog::TableFilter,
        ends: Ends,
    ) -> Self {
        Self { triggers: Triggers::new(pipeline, filter, ends.direction), ends }
    }

    /// Switches it. Whatever fails is named: clients wait.
    ///
    /// # Errors
    /// The side lets nobody in.
    pub async fn bring(&self) -> Result<Handed, Failure> {
        let handed = in_bounds(&self.ends, bring(&self.ends, &self.triggers, Way::Beside)).await;
        handed.map_err(|failure| self.ends.put(failure))
    }
}

/// In a session of its own.
async fn bring(ends: &Ends, triggers: &Triggers, way: Way) -> Result<Switched, Failure> {
    let target = open(&ends.target, "green").await?;
    Ok(triggers.bring(&target, way).await?)
}

/// Whatever fails is named, but for a closed door.
async fn in_bounds(
    ends: &Ends,
    bringing: impl Future<Output = Result<Switched, Failure>>,
) -> Result<Handed, Failure> {
    let to = ends.direction.to();
    let unmade = |why: String| Handed {
        made: None,
        missing: vec![format!(
            "triggers and rules, if any are noted in _cutover.trigger_states there: {why}"
        )],
    };
    Ok(match tokio::time::timeout(BRINGING_MAX, bringing).await {
        Ok(Ok(switched)) => handed(switched),
        Ok(Err(failure)) if failure.nature == Nature::ClosedDoor => {
            return Err(failure);
        }
        Ok(Err(failure)) => unmade(ends.put(failure).what),
        Err(_) => unmade(format!("{to} does not answer in time")),
    })
}

/// What is gone is told once; nothing is left to do about it.
fn handed(Switched { done, missing, gone }: Switched) -> Handed {
    let mut made = Vec::new();
    if !done.is_empty() {
        made.push(format!("{} triggers and rules switched", done.len()));
    }
    made.extend(gone.iter().map(|which| format!("{which} is not there any more")));
    Handed { made: (!made.is_empty()).then(|| made.join("; ")), missing }
}
