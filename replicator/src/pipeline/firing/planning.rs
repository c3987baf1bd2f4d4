//! What is told of triggers and rules before anything is switched.

use cutover::api::{Act, Check};
use decoders::postgres::session::Session;

use super::super::arming::SlotRoute;
use super::super::failure::Failure;
use crate::triggers::{Found, Triggers, grant};

/// How many names are told.
const NAMED_MAX: usize = 5;

impl SlotRoute {
    pub(in crate::pipeline) fn switching_on(&self) -> Vec<Act> {
        if !self.firing.is_noted(self.ends.direction.to()) {
            return Vec::new();
        }
        let text = "ALTER TABLE .. ENABLE [ALWAYS | REPLICA] TRIGGER .. (or RULE), each as noted in \
                    _cutover.trigger_states";
        self.act("flip", text)
    }

    pub(in crate::pipeline) fn switching_off(&self) -> Vec<Act> {
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
    pub(in crate::pipeline) async fn could_be_quiet(
        &self,
        target: &Session,
    ) -> Result<Check, Failure> {
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

/// The first of them, for people.
fn named<'a>(all: impl ExactSizeIterator<Item = &'a Found>) -> String {
    let count = all.len();
    let mut names: Vec<_> = all.take(NAMED_MAX).map(|one| one.which.to_string()).collect();
    if count > names.len() {
        names.push("..".into());
    }
    names.join(", ")
}
