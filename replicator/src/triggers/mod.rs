//! Triggers and rules of PostgreSQL that are enabled ALWAYS or REPLICA.
//!
//! They fire in our sessions, too, which apply with `session_replication_role = replica`: what the source's did
//! already would be done again. So on a side that is applied to they are off, and `_cutover.trigger_states` there has
//! what each is to be. A state is changed in the transaction that writes or strikes its note, so whoever comes after a
//! crash finds both or neither:
//!
//! 1. [`Triggers::quiet`]: they are switched off and noted, and whether they may have fired. When a run of the stream starts, when the streams are
//!    turned, and whenever the watch of the catalogs finds one.
//! 2. [`Triggers::carry`]: the watch keeps the notes what the source has. So the flip asks nobody but the side that
//!    opens, and in the pause nothing is written down.
//! 3. [`Triggers::bring`], decided and before clients come: the noted states are set, and the notes struck out. What
//!    can't be set stays noted and is named. Whoever finds notes on a side that serves does it again.
//!
//! A table whose triggers would fire is refused by [`sinks`] when its first row comes, so what is not yet off then stops
//! the stream. One that is enabled later fires until the next look of the watch, and its note says so (`fired`) until its
//! table is marked as unproven.

mod due;
mod found;
mod known;
mod locks;
mod noted;
mod switching;

use std::collections::{BTreeMap, BTreeSet};

use cutover::Direction;
use decoders::QualifiedName;
use decoders::postgres::catalog::{TableFilter, quote_ident};
use decoders::postgres::session::Session;
use sinks::TargetError;

use due::Due;
pub(crate) use found::{Found, Kind, Which};
pub(crate) use known::Known;
pub(crate) use locks::Way;
pub(crate) use noted::Notes;
pub(crate) use switching::Switched;

use crate::config::Config;

/// How many are switched in one transaction: each takes a lock, and a server with stock settings has room for 6,400.
const BATCH: usize = 500;

/// Those of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Triggers {
    pipeline: String,
    filter: TableFilter,
    direction: Direction,
}

/// One that may have acted on what was applied.
pub(crate) struct Fired {
    /// Which.
    pub which: Which,
    /// Its table, and those that this is a partition of.
    pub tables: BTreeSet<QualifiedName>,
}

/// What a source has.
pub(crate) struct Survey {
    /// Some fire there for what would be applied there.
    pub fires: bool,
    is_noted: bool,
    here: Vec<Found>,
}

/// How the notes of a target are now.
#[derive(Default)]
pub(crate) struct Carried {
    /// Something is noted.
    pub is_noted: bool,
    /// Noted, and our role may not switch them any more.
    pub barred: Vec<Found>,
}

impl Triggers {
    /// Of the stream of this name and direction.
    pub fn new(pipeline: impl Into<String>, filter: TableFilter, direction: Direction) -> Self {
        Self { pipeline: pipeline.into(), filter, direction }
    }

    /// Of the stream that `config` describes.
    pub fn of(config: &Config, direction: Direction) -> Self {
        Self::new(&config.name, config.tables.clone(), direction)
    }

    /// Those on a side that would fire for what is applied there.
    pub async fn acting(&self, session: &Session) -> Result<Vec<Found>, TargetError> {
        found::acting(session, &self.filter).await
    }

    /// What is noted on a side. In a session that has seen that `_cutover` is ours alone.
    pub async fn notes(&self, session: &Session) -> Result<Notes, TargetError> {
        noted::read(session, &self.pipeline).await
    }

    /// Switches off what would fire for what is applied, and notes what it was. `may_have_fired`: changes were applied
    /// since it was found that nothing does. Gives those that somebody's lock keeps on, and why.
    ///
    /// # Errors
    /// The server's; halts if our role may not switch one off, and none is then. Repeating it is fine.
    pub async fn quiet(
        &self,
        target: &Session,
        acting: &[Found],
        may_have_fired: bool,
    ) -> Result<Vec<(Found, String)>, TargetError> {
        if acting.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(refusal) = refused(acting, "green") {
            return Err(refusal);
        }
        noted::prepare(target).await?;
        switching::off(target, &self.pipeline, acting, may_have_fired).await
    }

    /// Those that may have fired for what was applied, about which nothing was written down yet, and the tables that are
    /// in doubt for it.
    ///
    /// # Errors
    /// The server's.
    pub async fn fired(&self, target: &Session) -> Result<Vec<Fired>, TargetError> {
        let fired = noted::fired(target, &self.pipeline).await?;
        let mut above: BTreeMap<Which, BTreeSet<QualifiedName>> = BTreeMap::new();
        for one in found::named(target, fired.iter()).await? {
            above.insert(one.which, one.above);
        }
        let of = |which: Which| {
            let own = || BTreeSet::from([which.table.clone()]);
            Fired { tables: above.remove(&which).unwrap_or_else(own), which }
        };
        Ok(fired.into_iter().map(of).collect())
    }

    /// The doubt about their tables is written down.
    ///
    /// # Errors
    /// The server's. Then they are doubted once more.
    pub async fn told(&self, target: &Session, fired: &[Fired]) -> Result<(), TargetError> {
        let which: Vec<_> = fired.iter().map(|one| &one.which).collect();
        noted::told(target, &self.pipeline, &which).await
    }

    /// What the source has of what fires there or is noted on the target. Reads only.
    ///
    /// # Errors
    /// The servers'.
    pub async fn survey(&self, source: &Session, target: &Session) -> Result<Survey, TargetError> {
        let acting = self.acting(source).await?;
        let noted = self.notes(target).await?;
        let wanted: BTreeSet<&Which> =
            acting.iter().map(|one| &one.which).chain(noted.keys()).collect();
        let here = found::named(source, wanted.iter().copied()).await?;
        Ok(Survey { fires: !acting.is_empty(), is_noted: !noted.is_empty(), here })
    }

    /// Makes the target's notes what they have to be for what the source had. Asks the target only.
    ///
    /// # Errors
    /// The server's. Repeating it is fine.
    pub async fn carry(&self, survey: &Survey, target: &Session) -> Result<Carried, TargetError> {
        if !survey.fires && !survey.is_noted {
            return Ok(Carried::default());
        }
        let (due, count) = self.due(survey, target).await?;
        if !due.note.is_empty() || !due.strike.is_empty() {
            noted::prepare(target).await?;
            switching::renew(target, &self.pipeline, &due).await?;
            for (which, state) in &due.note {
                tracing::info!(
                    pipeline = self.pipeline,
                    "{which} becomes {} when its side opens, as on the other one",
                    state.verb()
                );
            }
        }
        Ok(Carried { is_noted: count > 0, barred: due.barred })
    }

    /// Whether [`Triggers::carry`] would find nothing to note. Reads only.
    ///
    /// # Errors
    /// The server's.
    pub async fn is_carried(&self, survey: &Survey, target: &Session) -> Result<bool, TargetError> {
        if !survey.fires && !survey.is_noted {
            return Ok(true);
        }
        Ok(self.due(survey, target).await?.0.note.is_empty())
    }

    /// What is due, and how many notes there are then.
    async fn due(&self, survey: &Survey, target: &Session) -> Result<(Due, usize), TargetError> {
        let noted = self.notes(target).await?;
        let wanted: BTreeSet<&Which> =
            survey.here.iter().map(|one| &one.which).chain(noted.keys()).collect();
        let there = found::named(target, wanted.iter().copied()).await?;
        let due = due::due(self.direction, &survey.here, &there, &noted);
        let new = due.note.keys().filter(|which| !noted.contains_key(*which)).count();
        let count = noted.len() + new - due.strike.len();
        Ok((due, count))
    }

    /// Sets on the target what is noted there.
    ///
    /// # Errors
    /// The session is lost, or the notes can't be read. What a server refuses is named in what is given.
    pub async fn bring(&self, target: &Session, way: Way) -> Result<Switched, TargetError> {
        let noted = self.notes(target).await?;
        if noted.is_empty() {
            return Ok(Switched::default());
        }
        let there = found::named(target, noted.keys()).await?;
        let found: BTreeSet<&Which> = there.iter().map(|one| &one.which).collect();
        let gone: Vec<Which> =
            noted.keys().filter(|which| !found.contains(which)).cloned().collect();
        let state = |one: Found| noted.get(&one.which).map(|state| (one, *state));
        let wanted = there.into_iter().filter_map(state).collect();
        let families = switching::families(wanted, target.server_version());
        let mut switched = switching::on(target, &self.pipeline, &families, way).await?;
        if !gone.is_empty() {
            let due = Due { strike: gone, ..Due::default() };
            switching::renew(target, &self.pipeline, &due).await?;
            switched.gone = due.strike;
        }
        Ok(switched)
    }
}

/// Why those can't be switched, if our role may not switch all of them. `side` as the engine calls it.
fn refused(acting: &[Found], side: &str) -> Option<TargetError> {
    let others: Vec<_> = acting.iter().filter(|one| !one.may).collect();
    let first = others.first()?;
    let more = others.len() - 1;
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    Some(TargetError::halt(
        format!(
            "on {side} the {} fires for replicated changes, too, and our role may not switch it off: \
             the table is owned by {}{more}",
            first.which, first.owner
        ),
        grant(&others, side),
    ))
}

/// What lets our role switch them.
pub(crate) fn grant(others: &[&Found], side: &str) -> String {
    let mut owners: Vec<_> = others.iter().map(|one| one.owner.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    let quoted: Vec<_> = owners.iter().map(|owner| quote_ident(owner)).collect();
    format!(
        "on {side}: GRANT {} TO our role, or DISABLE them there and ENABLE them when {side} has opened (before \
         PostgreSQL 13 only a superuser may switch what a partition has of its parent's trigger)",
        quoted.join(", ")
    )
}
