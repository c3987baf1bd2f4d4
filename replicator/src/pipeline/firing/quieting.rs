//! What would repeat on a target what its source did is kept off there, and the notes of it follow the source.

use cutover::Side;
use decoders::postgres::session::Session;
use sinks::postgres::target_error;

use super::super::Ends;
use super::super::arming::{SlotRoute, of_door};
use super::super::failure::Failure;
use super::super::record::Book;
use super::{Firing, SETTINGS, open};
use crate::config::Config;
use crate::door::Door;
use crate::store::Store;
use crate::triggers::{Fired, Found, Triggers, grant};

/// How many names are told.
const NAMED_MAX: usize = 5;

/// The switching of one stream's target.
pub(in crate::pipeline) struct Switching<'a> {
    pub config: &'a Config,
    pub ends: &'a Ends,
    pub door: &'a Door,
    pub firing: &'a Firing,
    pub store: &'a Store,
}

/// What keeping them off has come to.
#[derive(Default)]
pub(in crate::pipeline) struct Quieted {
    /// May have acted on what was applied, and their tables are not in doubt yet.
    pub fired: Vec<Fired>,
    /// Act on what is applied, because somebody's lock keeps them on, and why.
    pub still: Vec<(Found, String)>,
}

impl Quieted {
    /// Nothing has fired for what was applied.
    pub fn is_calm(&self) -> bool {
        self.fired.is_empty() && self.still.is_empty()
    }

    /// Before anything is applied.
    ///
    /// # Errors
    /// Something is still on; to be tried again.
    pub fn ensure_off(&self) -> Result<(), Failure> {
        let Some((first, why)) = self.still.first() else { return Ok(()) };
        let what =
            format!("{} fires for what is applied, and can't be switched off: {why}", first.which);
        Err(Failure::retry("green", what))
    }
}

impl Switching<'_> {
    fn to(&self) -> Side {
        self.ends.direction.to()
    }

    fn triggers(&self) -> Triggers {
        Triggers::of(self.config, self.ends.direction)
    }

    /// Switches off what would repeat on the target what the source did already. One question where nothing fires or
    /// is noted. Whatever acts after the first time since this stream carries may have acted on what it applied.
    ///
    /// # Errors
    /// The server's; halts if our role may not switch one.
    pub async fn quiet(&self, target: &Session) -> Result<Quieted, Failure> {
        let mut quieted = Quieted::default();
        if self.config.apply.accept_triggers {
            return Ok(quieted);
        }
        let triggers = self.triggers();
        if !triggers.acting(target).await?.is_empty() {
            let _switching = self.firing.switching(self.ends.direction.to()).lock().await;
            let served = self.door.may_serve(self.ends.direction).await;
            if served.map_err(|error| self.ends.put(of_door(error)))? {
                tracing::warn!("triggers on {} stay as they are: it may serve already", self.to());
                return Ok(quieted);
            }
            let set = target.batch_execute(SETTINGS).await;
            set.map_err(|error| target_error("making a session writable", &error))?;
            let acting = triggers.acting(target).await?;
            let may_have_fired = self.firing.has_begun(self.to()) || self.store.was_quiet()?;
            // Before, so that whoever asks meanwhile looks.
            self.firing.notes(self.to(), true);
            quieted.still = triggers.quiet(target, &acting, may_have_fired).await?;
            tracing::info!(
                pipeline = self.config.name,
                count = acting.len() - quieted.still.len(),
                first = acting.first().map(|one| one.which.to_string()),
                "triggers and rules that fire for replicated changes are off on {} until it opens",
                self.to()
            );
        }
        if quieted.still.is_empty() && !self.firing.has_begun(self.to()) {
            self.store.save_quiet()?;
            self.firing.begins(self.to());
        }
        if self.firing.is_noted(self.to()) {
            quieted.fired = triggers.fired(target).await?;
        }
        Ok(quieted)
    }

    /// Writes down that rows of their tables may differ: what they did is in nobody's stream. What fires still is doubted
    /// anew each time, because it goes on.
    ///
    /// # Errors
    /// The server's.
    pub async fn doubt(
        &self,
        book: &mut Book,
        target: &Session,
        quieted: &Quieted,
    ) -> Result<(), Failure> {
        let fired = quieted.fired.iter().map(|one| (&one.which, &one.tables));
        let still = quieted.still.iter().map(|(one, _)| (&one.which, &one.above));
        let all: Vec<_> = fired.chain(still).collect();
        let names: Vec<_> =
            all.iter().take(NAMED_MAX).map(|(which, _)| which.to_string()).collect();
        let why = format!(
            "fired for replicated changes because somebody had enabled it on the side that receives them: {}",
            names.join(", ")
        );
        tracing::warn!("{why}. What it wrote to other tables is found by cutover verify");
        let tables = all.iter().flat_map(|(_, tables)| tables.iter().cloned()).collect();
        book.doubt(target, &tables, &why).await?;
        Ok(self.triggers().told(target, &quieted.fired).await?)
    }

    /// Keeps the notes what the source has, while changes are applied: what stands in the way of a flip, in sentences.
    ///
    /// # Errors
    /// A server's.
    pub async fn carry(&self, source: &Session, target: &Session) -> Result<Vec<String>, Failure> {
        let (from, to) = (self.ends.direction.from(), self.to());
        let mut open = Vec::new();
        if self.config.apply.accept_triggers {
            self.firing.notes(to, !self.triggers().notes(target).await?.is_empty());
            self.firing.fires_on(from, false);
            return Ok(open);
        }
        let triggers = self.triggers();
        // A flip waits for nobody who waits for the source.
        let survey = triggers.survey(source, target).await?;
        let _switching = self.firing.switching(self.ends.direction.to()).lock().await;
        if self.door.may_serve(self.ends.direction).await.map_err(of_door)? {
            return Ok(open);
        }
        let carried = triggers.carry(&survey, target).await?;
        self.firing.notes(to, carried.is_noted);
        self.firing.fires_on(from, survey.fires);
        let barred: Vec<_> = carried.barred.iter().collect();
        if let Some(first) = barred.first() {
            open.push(format!(
                "our role may not switch the {} of {} any more, which a flip has to: {}",
                first.which,
                first.owner,
                grant(&barred, "green")
            ));
        }
        Ok(open)
    }
}

impl SlotRoute {
    /// The streams are turned: what would repeat on this stream's target what its source does is switched off. A stream
    /// that starts later does it by itself.
    pub(in crate::pipeline) async fn quiet_triggers(&self) -> Result<Option<String>, Failure> {
        let to = self.ends.direction.to();
        if self.config.apply.accept_triggers || !self.door.is_recovered() {
            return Ok(None);
        }
        if !self.firing.fires(to) {
            self.firing.begins(to);
            return Ok(None);
        }
        let target = {
            let guard = self.door.enter(to).await;
            let _guard = guard.map_err(|error| self.ends.put(of_door(error)))?;
            open(&self.ends.target, "green").await?
        };
        let triggers = Triggers::of(&self.config, self.ends.direction);
        let _switching = self.firing.switching(self.ends.direction.to()).lock().await;
        let acting = triggers.acting(&target).await?;
        self.firing.notes(to, true);
        let still = triggers.quiet(&target, &acting, false).await?;
        Quieted { still, ..Quieted::default() }.ensure_off()?;
        self.firing.begins(to);
        let count = acting.len();
        Ok((count > 0).then(|| format!("{count} triggers and rules are off on {to}")))
    }

    /// A last look behind the fence, where the source's catalog has changed since the last look of the watch.
    pub(in crate::pipeline) async fn triggers_are_carried(
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
}
