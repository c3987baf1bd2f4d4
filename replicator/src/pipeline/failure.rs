//! Everything that can end a run of the pipeline, in the one form that an operator needs.

use cutover::Direction;
use cutover::api::Problem;
use cutover::ports::Nature;
use decoders::SourceError;
use decoders::postgres::error::ConnectError;
use decoders::source::Disposition;
use jiff::Timestamp;
use sinks::TargetError;

use super::ends::words;
use crate::engine::resume::Broken;
use crate::engine::stream::StreamError;
use crate::store::StoreError;

/// When a halted stream is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumes {
    /// By itself, at the pauses of [`life`](super::life): the remedy shows in the next attempt.
    ByItself,
    /// When somebody asks for it: nothing that another attempt could find would be news.
    OnRequest,
}

/// Why the pipeline can't go on now.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Failure {
    /// Retry or stop.
    pub disposition: Disposition,
    /// Where: `blue`, `green`, `state directory`, `schema copy`...
    pub place: String,
    /// What happened; no row values, no secrets.
    pub what: String,
    /// What a person should do.
    pub remedy: Option<String>,
    /// What the state is now, where it is not that blue serves; a sentence.
    pub state: Option<String>,
    /// What is true of the data now, a sentence.
    pub data: &'static str,
    /// When it is tried again, if it halts the stream.
    pub resumes: Resumes,
    /// What it means for a controller that waits for what failed.
    pub nature: Nature,
    /// The process's exit code, when it stops.
    pub exit_code: u8,
}

/// What the stream brings is applied in order or not at all. Of what it can't bring it says nothing.
const SAFE: &str = "safe on blue; nothing that came in the stream was skipped";
/// Where nothing else is said.
const STOPPED: &str = "replication stopped; blue is serving and keeps its log for us";
/// Blue has everything; green can't be completed.
pub(crate) const GREEN_INCOMPLETE: &str =
    "safe on blue; green lacks changes that can't be had any more";

/// Exit code for an error that stops the replicator.
pub const EXIT_ERROR: u8 = 1;
/// Exit code when the checks found blockers and nothing was touched.
pub const EXIT_BLOCKED: u8 = 3;

impl Failure {
    /// The world may get better by itself.
    pub fn retry(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            disposition: Disposition::Retry,
            place: place.into(),
            what: what.into(),
            remedy: None,
            state: None,
            data: SAFE,
            resumes: Resumes::ByItself,
            nature: Nature::Plain,
            exit_code: EXIT_ERROR,
        }
    }

    /// Only a person can decide.
    pub fn halt(
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            disposition: Disposition::Halt,
            remedy: Some(remedy.into()),
            ..Self::retry(place, what)
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.disposition == Disposition::Retry
    }

    /// What a pipeline that tries again waits for, in words.
    pub fn waiting(&self) -> String {
        let remedy = self.remedy.as_ref().map_or(String::new(), |remedy| format!(" ({remedy})"));
        format!("{} to get better: {}{remedy}", self.place, self.what)
    }

    /// As the API shows it.
    pub fn problem(&self) -> Problem {
        Problem {
            what: self.what.clone(),
            place: self.place.clone(),
            at: Timestamp::now(),
            data_safe: true,
            next: self.remedy.clone(),
        }
    }

    /// What the state is, in the words of a direction.
    pub fn state_now(&self, direction: Direction) -> String {
        words(direction, self.state.as_deref().unwrap_or(STOPPED).to_owned())
    }

    /// What is true of the data, in the words of a direction.
    pub fn data_now(&self, direction: Direction) -> String {
        words(direction, self.data.to_owned())
    }

    /// As it is printed when the process ends: what, where, state, safety, next command.
    pub fn report(&self) -> String {
        let state = self.state.as_deref().unwrap_or(STOPPED);
        let next = self.remedy.as_deref().unwrap_or("replicator run (it resumes where it stopped)");
        format!(
            "error: {}\n  where: {}\n  state: {state}\n  data:  {}\n  next:  {next}",
            self.what, self.place, self.data
        )
    }
}

/// An error with all that lies beneath it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut beneath = error.source();
    while let Some(cause) = beneath {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        beneath = cause.source();
    }
    text
}

/// A connection that could not be made.
pub fn of_connect(side: &str, error: &ConnectError) -> Failure {
    let what = chain(error);
    if is_closed(error) {
        Failure { nature: Nature::ClosedDoor, ..Failure::retry(side, what) }
    } else if error.is_transient() {
        Failure::retry(side, what)
    } else {
        Failure::halt(
            side,
            what,
            format!("correct {side}'s connection string, or the server's rights"),
        )
    }
}

/// "cannot connect now": the database does not accept connections.
const CLOSED: &str = "55000";

/// Whether a side lets nobody in, as one that a cutover has closed.
pub(super) fn is_closed(error: &ConnectError) -> bool {
    match error {
        ConnectError::Hosts(errors) => errors.iter().any(is_closed),
        error => error.server_error().is_some_and(|server| server.sqlstate == CLOSED),
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self {
            disposition: error.disposition,
            remedy: error.remedy.clone(),
            ..Self::retry("blue", chain(&error))
        }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        Self {
            disposition: error.disposition,
            remedy: error.remedy.clone(),
            ..Self::retry("green", chain(&error))
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let remedy = error.remedy();
        Self::halt("state directory", chain(&error), remedy)
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Source(error) => error.into(),
            StreamError::Target(error) => error.into(),
            StreamError::Store(error) => error.into(),
        }
    }
}

impl From<Broken> for Failure {
    fn from(error: Broken) -> Self {
        Self { data: GREEN_INCOMPLETE, ..Self::halt("slot", error.to_string(), Broken::REMEDY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_answers_all_five_questions() {
        let failure =
            Failure::halt("green", "update of \"public\".\"t\" matched 0 rows", "cutover verify");
        let report = failure.report();
        for part in ["error:", "where:", "state:", "data:", "next:  cutover verify"] {
            assert!(report.contains(part), "{part} is missing in {report}");
        }
    }
}
