//! Triggers and rules that fire for replicated changes, in the life of a stream: off before it applies, kept in step
//! with the source by the watch, switched by the flip. [`crate::triggers`] says how.
//!
//! Nothing is switched off where the target may serve: see [`Door::may_serve`]. Whoever switches, one way or the other,
//! holds [`Firing::switching`] from that question to the end, and a run asks for the flip only after it has
//! written down that it decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cutover::Side;
use cutover::api::{Act, Check};
use cutover::ports::{Handed, PortResult};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use sinks::own::keys;
use sinks::postgres::target_error;
use tokio::sync::Mutex;

use super::Ends;
use super::arming::{SlotRoute, of_door};
use super::failure::{Failure, of_connect};
use crate::config::Config;
use crate::door::Door;
use crate::status::Shared;
use crate::triggers::{Found, Switched, Triggers, Way, Which, grant};

/// `application_name` of the sessions here.
const NAME: &str = "cutover triggers";

/// How long the flip may take for it. Clients wait.
const BRINGING_MAX: Duration = Duration::from_secs(5);

/// Pause before what could not be switched is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How many names are told.
const NAMED_MAX: usize = 5;

/// Workers can't start in a database that accepts no connections, before the minor releases of February 2025: what plans
/// parallel workers fails there.
const SETTINGS: &str =
    "SET default_transaction_read_only = off; SET max_parallel_workers_per_gather = 0";

/// What both directions of a pipeline know of their triggers. What is not known counts as yes.
pub struct Firing {
    /// Whether something is noted on blue, on green.
    noted: [AtomicBool; 2],
    /// Whether something fires on blue, on green, for what would be applied there.
    fires: [AtomicBool; 2],
    /// Held by whoever switches.
    switching: Mutex<()>,
}

impl Default for Firing {
    fn default() -> Self {
        let unknown = || [AtomicBool::new(true), AtomicBool::new(true)];
        Self { noted: unknown(), fires: unknown(), switching: Mutex::default() }
    }
}

impl Firing {
    fn is_noted(&self, side: Side) -> bool {
        self.noted[side as usize].load(Ordering::Relaxed)
    }

    fn notes(&self, side: Side, is_noted: bool) {
        self.noted[side as usize].store(is_noted, Ordering::Relaxed);
    }

    fn fires(&self, side: Side) -> bool {
        self.fires[side as usize].load(Ordering::Relaxed)
    }

    fn fires_on(&self, side: Side, fires: bool) {
        self.fires[side as usize].store(fires, Ordering::Relaxed);
    }
}

async fn open(info: &ConnInfo, end: &str) -> Result<Session, Failure> {
    let session = session::connect(info, NAME).await.map_err(|error| of_connect(end, &error))?;
    let set = session.batch_execute(SETTINGS).await;
    set.map_err(|error| target_error("making a session writable", &error))?;
    keys::refuse_strangers(&session).await?;
    Ok(session)
}

/// The switching of one stream's target.
pub(super) struct Switching<'a> {
    pub config: &'a Config,
    pub ends: &'a Ends,
    pub door: &'a Door,
    pub firing: &'a Firing,
}

/// What the watch has found about triggers.
#[derive(Default)]
pub(super) struct Seen {
    /// Those that had been switched off, and were on again while changes were applied.
    pub again: Vec<Which>,
    /// What stands in the way of a flip, in sentences.
    pub open: Vec<String>,
}

impl Switching<'_> {
    fn to(&self) -> Side {
        self.ends.direction.to()
    }

    fn triggers(&self) -> Triggers {
        Triggers::of(self.config, self.ends.direction)
    }

    /// Switches off what would repeat on the target what the source did already; gives what had been switched off
    /// before. One question where nothing fires.
    ///
    /// # Errors
    /// The server's; halts if our role may not switch one.
    pub async fn quiet(&self, target: &Session) -> Result<Vec<Which>, Failure> {
        if self.config.apply.accept_triggers {
            return Ok(Vec::new());
        }
        let triggers = self.triggers();
        if triggers.acting(target).await?.is_empty() {
            return Ok(Vec::new());
        }
        let _switching = self.firing.switching.lock().await;
        let served = self.door.may_serve(self.ends.direction).await;
        if served.map_err(|error| self.ends.put(of_door(error)))? {
            tracing::warn!("triggers on {} stay as they are: it may serve already", self.to());
            return Ok(Vec::new());
        }
        target
            .batch_execute(SETTINGS)
            .await
            .map_err(|error| target_error("making a session writable", &error))?;
        let acting = triggers.acting(target).await?;
        // Before, so that whoever asks meanwhile looks.
        self.firing.notes(self.to(), true);
        let again = triggers.quiet(target, &acting).await?;
        tracing::info!(
            pipeline = self.config.name,
            count = acting.len(),
            first = acting.first().map(|one| one.which.to_string()),
            "triggers and rules that fire for replicated changes are off on {} until it opens",
            self.to()
        );
        Ok(again)
    }

    /// A look of the watch, while changes are applied.
    ///
    /// # Errors
    /// A server's; halts if our role may not switch one.
    pub async fn look(&self, source: &Session, target: &Session) -> Result<Seen, Failure> {
        let (from, to) = (self.ends.direction.from(), self.to());
        let mut seen = Seen { again: self.quiet(target).await?, ..Seen::default() };
        if self.config.apply.accept_triggers {
            self.firing.notes(to, !self.triggers().notes(target).await?.is_empty());
            self.firing.fires_on(from, false);
            return Ok(seen);
        }
        let triggers = self.triggers();
        // A flip waits for nobody who waits for the source.
        let survey = triggers.survey(source, target).await?;
        let _switching = self.firing.switching.lock().await;
        if self.door.may_serve(self.ends.direction).await.map_err(of_door)? {
            return Ok(seen);
        }
        let carried = triggers.carry(&survey, target).await?;
        self.firing.notes(to, carried.is_noted);
        self.firing.fires_on(from, survey.fires);
        let barred: Vec<_> = carried.barred.iter().collect();
        if let Some(first) = barred.first() {
            seen.open.push(format!(
                "our role may not switch the {} of {} any more, which a flip has to: {}",
                first.which,
                first.owner,
                grant(&barred, "green")
            ));
        }
        Ok(seen)
    }

    /// Whatever is still noted on a target that serves is switched, again and again: the flip had to go on without
    /// it. Never returns.
    pub async fn keep(&self, shared: &Arc<Shared>) {
        let mut carries = shared.carries.subscribe();
        loop {
            // A sender that is gone ends the stream anyway.
            let _ = carries.wait_for(|carries| !*carries).await;
            if self.firing.is_noted(self.to()) {
                match self.settle().await {
                    Ok(None) => {}
                    Ok(Some(missing)) => {
                        shared.stand_in_the_way((!missing.is_empty()).then(|| {
                            let missing = missing.join("; ");
                            format!("NOT MADE on {}, and tried again: {missing}", self.to())
                        }));
                    }
                    Err(failure) => tracing::warn!(
                        place = failure.place,
                        "triggers that are to be switched on {}: {}",
                        self.to(),
                        failure.what
                    ),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Switches what is noted on a target that serves, and names what could not be. `None`: it does not serve.
    ///
    /// # Errors
    /// The server's.
    pub async fn settle(&self) -> Result<Option<Vec<String>>, Failure> {
        let to = self.to();
        let is_closed = async || self.door.has_closed(to).await.map_err(of_door);
        if is_closed().await? {
            return Ok(None);
        }
        let target = open(&self.ends.target, "green").await?;
        let _switching = self.firing.switching.lock().await;
        if is_closed().await? {
            return Ok(None);
        }
        let Switched { count, missing } = self.triggers().bring(&target, Way::Beside).await?;
        if count > 0 {
            tracing::info!("{count} triggers and rules were switched on {to} after it had opened");
        }
        self.firing.notes(to, !self.triggers().notes(&target).await?.is_empty());
        Ok(Some(missing))
    }
}

impl SlotRoute {
    /// Opens the session that the flip needs on the target, while nobody waits.
    pub(super) async fn prepare_opening(&self) -> PortResult<()> {
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

    /// Whether a flip has to switch something; yes if that is not known.
    pub(super) fn has_notes(&self) -> bool {
        self.firing.is_noted(self.ends.direction.to())
    }

    /// Decided, and before clients come. Whatever fails, clients are not kept waiting for it: it is named.
    ///
    /// # Errors
    /// The target lets nobody in. Whoever can opens the airlock, and calls again.
    pub(super) async fn bring_triggers(&self) -> Result<Handed, Failure> {
        // Taken out: a call that is given up half-way leaves none behind.
        let kept = self.opening.lock().await.take();
        // Who has found nobody at work there, and has kept everybody out since.
        let way = if kept.is_some() { Way::Cleared } else { Way::Beside };
        let mut kept = kept.filter(|session| !session.is_closed());
        let triggers = Triggers::of(&self.config, self.ends.direction);
        let bringing = async {
            let _switching = self.firing.switching.lock().await;
            if let Some(session) = kept.take() {
                match triggers.bring(&session, way).await {
                    Err(error) => tracing::warn!("switching triggers: {error}"),
                    done => return Ok(done?),
                }
            }
            bring(&self.ends, &triggers, way).await
        };
        let handed = in_bounds(&self.ends, bringing).await?;
        self.firing.notes(self.ends.direction.to(), !handed.missing.is_empty());
        Ok(handed)
    }

    /// The streams are turned: what would repeat on this stream's target what its source does is switched off. A stream
    /// that starts later does it by itself.
    pub(super) async fn quiet_triggers(&self) -> Result<Option<String>, Failure> {
        let to = self.ends.direction.to();
        if self.config.apply.accept_triggers || !self.door.is_recovered() || !self.firing.fires(to)
        {
            return Ok(None);
        }
        let target = {
            let guard = self.door.enter(to).await;
            let _guard = guard.map_err(|error| self.ends.put(of_door(error)))?;
            open(&self.ends.target, "green").await?
        };
        let triggers = Triggers::of(&self.config, self.ends.direction);
        let _switching = self.firing.switching.lock().await;
        let acting = triggers.acting(&target).await?;
        self.firing.notes(to, true);
        triggers.quiet(&target, &acting).await?;
        let count = acting.len();
        Ok((count > 0).then(|| format!("{count} triggers and rules are off on {to}")))
    }

    /// A last look behind the fence, where the source's catalog has changed since the last look of the watch.
    pub(super) async fn triggers_are_carried(
        &self,
        source: &Session,
        target: &Session,
    ) -> Result<bool, Failure> {
        if self.config.apply.accept_triggers {
            return Ok(true);
        }
        let triggers = Triggers::of(&self.config, self.ends.direction);
        let survey = triggers.survey(source, target).await?;
        Ok(triggers.is_carried(&survey, target).await?)
    }

    pub(super) fn switching_on(&self) -> Vec<Act> {
        if !self.has_notes() {
            return Vec::new();
        }
        let text = "ALTER TABLE .. ENABLE [ALWAYS | REPLICA] TRIGGER .. (or RULE), each as noted in \
                    _cutover.trigger_states";
        self.act("flip", text)
    }

    pub(super) fn switching_off(&self) -> Vec<Act> {
        if self.config.apply.accept_triggers || !self.firing.fires(self.ends.direction.to()) {
            return Vec::new();
        }
        let text = "ALTER TABLE .. DISABLE TRIGGER .. (or RULE), each noted in _cutover.trigger_states in the \
                    same transaction";
        self.act("finish", text)
    }

    fn act(&self, step: &str, text: &str) -> Vec<Act> {
        let place = self.ends.direction.to().name().into();
        vec![Act { step: step.into(), place, text: text.into() }]
    }

    /// Whether what the way back writes would set something off that our role can't switch off. `target` is where it
    /// writes.
    pub(super) async fn could_be_quiet(&self, target: &Session) -> Result<Check, Failure> {
        const ID: &str = "way-back-triggers";
        let [from, to] = [self.ends.direction.from(), self.ends.direction.to()];
        let acting = Triggers::of(&self.config, self.ends.direction).acting(target).await?;
        let others: Vec<_> = acting.iter().filter(|one| !one.may).collect();
        if !others.is_empty() {
            let names = named(others.iter().copied());
            let fix = grant(&others, to.name());
            return Ok(Check::fail(
                ID,
                format!(
                    "on {to} these would repeat what {from}'s did already, and our role may not switch them off: {names}"
                ),
                format!("{fix}; or cut over without a way back: --no-way-back"),
            ));
        }
        let names = named(acting.iter());
        Ok(Check::ok(
            ID,
            match acting.len() {
                0 => format!("{to}: no trigger would repeat what comes from {from}"),
                count => format!(
                    "{to}: {} enabled ALWAYS or REPLICA, switched off for the way back: {}",
                    crate::check::finding::count(count, "trigger or rule"),
                    names
                ),
            },
        ))
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
        in_bounds(&self.ends, bring(&self.ends, &self.triggers, Way::Beside)).await
    }
}

/// The first of them, for people.
fn named<'a>(all: impl ExactSizeIterator<Item = &'a Found>) -> String {
    let count = all.len();
    let mut names: Vec<_> = all.take(NAMED_MAX).map(|one| one.which.to_string()).collect();
    if count > names.len() {
        names.push("..".into());
    }
    names.join(", ")
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
            "triggers and rules that are noted in _cutover.trigger_states there: {why}"
        )],
    };
    Ok(match tokio::time::timeout(BRINGING_MAX, bringing).await {
        Ok(Ok(Switched { count, missing })) => Handed {
            made: (count > 0).then(|| format!("{count} triggers and rules switched")),
            missing,
        },
        Ok(Err(failure)) if failure.nature == cutover::ports::Nature::ClosedDoor => {
            return Err(ends.put(failure));
        }
        Ok(Err(failure)) => unmade(ends.put(failure).what),
        Err(_) => unmade(format!("{to} does not answer")),
    })
}
