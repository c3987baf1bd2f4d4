//! What is written down: who asked for what, and what a run did. No row values, no secrets: the
//! prior settings that a journal keeps stay in the journal.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::asker::Asker;
use crate::ports::{Entry, Record};

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From this line on lines are keyed.
    Keyed,
    /// A sidecar started on this state directory.
    Opened,
    /// The end of the log was torn; the rest of the line was put aside.
    Repaired,
    /// Somebody asked for something that can change the world.
    Request,
    /// What he was answered.
    Answer,
    /// Somebody asked who was not known, or may not, or in a way that nothing is done for. Not all
    /// of a flood of them are written.
    Refused,
    /// A run began.
    Began,
    /// A phase was proven, and an act comes next.
    Reached,
    /// An act failed, or something stopped the run.
    Stopped,
    /// `finish` came to a step.
    Finishing,
    /// A run is over.
    Ended,
}

impl Kind {
    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keyed => "keyed",
            Kind::Opened => "opened",
            Kind::Repaired => "repaired",
            Kind::Request => "request",
            Kind::Answer => "answer",
            Kind::Refused => "refused",
            Kind::Began => "began",
            Kind::Reached => "reached",
            Kind::Stopped => "stopped",
            Kind::Finishing => "finishing",
            Kind::Ended => "ended",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the sidecar's wall clock.
    pub at: Timestamp,
    /// Of which kind.
    pub kind: Kind,
    /// Who, as the API has seen him: `token:NAME`, `user:NAME`, `certificate:NAME`; or what the
    /// sidecar itself calls `watch` and `replicator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What he called himself. Nobody has checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_by: Option<String>,
    /// In which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The run's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Number of the journal's entry that says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// What, a sentence.
    pub what: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A line of the log, without its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// What it says.
    #[serde(flatten)]
    pub event: Event,
    /// Name of the key that it is sealed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The hash of the line before.
    pub prev: String,
}

impl Event {
    /// Something without a run.
    pub fn new(at: Timestamp, kind: Kind, what: impl Into<String>, detail: Value) -> Self {
        let what = what.into();
        let (actor, peer, said_by) = (None, None, None);
        Self { at, kind, actor, peer, said_by, run: None, epoch: None, entry: None, what, detail }
    }

    /// The same, by whoever was seen to ask.
    pub fn by(self, actor: Option<String>) -> Self {
        Self { actor, ..self }
    }

    /// The same, by whoever asked, with what he called himself.
    pub fn asked_by(self, asker: Asker) -> Self {
        Self { actor: Some(asker.name), said_by: asker.said_by, ..self }
    }

    /// The same, from the other end of a connection.
    pub fn seen_at(self, peer: String) -> Self {
        Self { peer: Some(peer), ..self }
    }
}

impl From<&Entry> for Event {
    fn from(entry: &Entry) -> Self {
        let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
        let (kind, actor, what, detail) = match &entry.record {
            Record::Began { request, direction } => {
                let what = match request["drill"].as_bool() {
                    Some(true) => format!("a drill {direction}"),
                    _ => format!("a run {direction}"),
                };
                (Kind::Began, text(request, "actor"), what, request.clone())
            }
            Record::Reached { phase, seen, next, .. } => {
                let next = next.as_deref().unwrap_or("nothing");
                let what = format!("{}; next: {next}", phase.name());
                (Kind::Reached, None, what, json!({ "seen": seen }))
            }
            Record::Stopped { why } => {
                let detail = json!({ "kind": why.kind, "where": why.place, "remedy": why.remedy });
                (Kind::Stopped, None, why.what.clone(), detail)
            }
            Record::Finishing { step, actor } => {
                (Kind::Finishing, actor.clone(), step.clone(), Value::Null)
            }
            Record::Ended { report } => {
                let detail = json!({
                    "pause_ms": report.pause_ms, "marker": report.marker,
                    "fence_proof": report.fence_proof, "way_back": report.way_back,
                    "error": report.error.as_ref().map(|error| &error.what),
                });
                let what = format!("{}; {} serves", report.outcome.name(), report.serving);
                (Kind::Ended, report.actor.clone(), what, detail)
            }
        };
        let (actor, said_by) = actor.as_deref().map_or((None, None), Asker::told_apart);
        Self {
            at: entry.at,
            kind,
            actor,
            peer: None,
            said_by,
            run: Some(entry.run.clone()),
            epoch: Some(entry.epoch.0),
            entry: Some(entry.seq),
            what,
            detail,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = &self.event;
        let at = event.at.strftime("%Y-%m-%d %H:%M:%S%.3fZ");
        write!(f, "{:>6}  {at}  {:<9}", self.number, event.kind.name())?;
        if let (Some(run), Some(epoch)) = (&event.run, event.epoch) {
            write!(f, "  {run} ({epoch})")?;
        }
        if let Some(actor) = &event.actor {
            write!(f, "  by {actor}")?;
        }
        if let Some(name) = &event.said_by {
            write!(f, "  said by {name}")?;
        }
        if let Some(peer) = &event.peer {
            write!(f, "  from {peer}")?;
        }
        write!(f, "  {}", event.what)?;
        if let Some(reason) = event.detail["reason"].as_str() {
            write!(f, "  because: {reason}")?;
        }
        Ok(())
    }
}
