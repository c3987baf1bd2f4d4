//! Sessions by what an operator can find them by on their server.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many sessions an answer names, and how many a text names of each kind.
const ANSWER_MAX: usize = 100;
const TEXT_MAX: usize = 5;

/// A session that has something under way, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// The number that its server knows it by.
    pub pid: u32,
    pub user: String,
    pub application: String,
    pub what: &'static str,
    /// When it was at rest last.
    pub since: Instant,
}

/// A session that has something under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// What it is in, for example "in a transaction".
    pub what: String,
    /// The number that its server knows it by: a process id, or a connection id.
    pub pid: u32,
    /// Who has logged in.
    pub user: String,
    /// `application_name`, or the connection attribute `program_name`. Empty: it has said none.
    pub application: String,
    /// Since when it was not at rest.
    pub age_ms: u64,
}

impl Named {
    pub(super) fn of(session: UnderWay) -> Self {
        let age = session.since.elapsed().as_millis();
        Self {
            what: session.what.to_owned(),
            pid: session.pid,
            user: session.user,
            application: session.application,
            age_ms: u64::try_from(age).unwrap_or(u64::MAX),
        }
    }

    /// Those that are longest at it.
    pub(super) fn oldest(mut sessions: Vec<UnderWay>) -> Vec<Self> {
        sessions.sort_by_key(|session| session.since);
        sessions.into_iter().take(ANSWER_MAX).map(Self::of).collect()
    }

    /// How long it has not been at rest.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}, user {}", self.pid, self.user)?;
        if !self.application.is_empty() {
            write!(f, ", application {:?}", self.application)?;
        }
        match self.age_ms {
            0..10_000 => write!(f, ", for {:.1} s", self.age().as_secs_f64()),
            _ => write!(f, ", for {} s", self.age_ms / 1000),
        }
    }
}

/// `1 in a transaction: pid 123, user app, application "web", for 312 s`; several are told by what
/// they are in.
pub fn told(sessions: &[Named]) -> String {
    let mut kinds: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    for session in sessions {
        kinds.entry(&session.what).or_default().push(session);
    }
    let kind = |(what, sessions): (&str, Vec<&Named>)| {
        let mut names: Vec<_> = sessions.iter().take(TEXT_MAX).map(ToString::to_string).collect();
        if let Some(more @ 1..) = sessions.len().checked_sub(TEXT_MAX) {
            names.push(format!("{more} more"));
        }
        format!("{} {what}: {}", sessions.len(), names.join(" and "))
    };
    let kinds: Vec<_> = kinds.into_iter().map(kind).collect();
    kinds.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(what: &str, pid: u32, application: &str, age_ms: u64) -> Named {
        let (what, user, application) = (what.into(), "app".into(), application.into());
        Named { what, pid, user, application, age_ms }
    }

    #[test]
    fn a_session_is_told_by_what_it_can_be_found_by() {
        let one = named("in a transaction", 123, "web", 312_400);
        let text = "1 in a transaction: pid 123, user app, application \"web\", for 312 s";
        assert_eq!(told(std::slice::from_ref(&one)), text);
        let copy = named("in a COPY", 7, "", 40);
        assert_eq!(
            told(&[one.clone(), copy, one.clone()]),
            format!("1 in a COPY: pid 7, user app, for 0.0 s; 2 in a transaction: {one} and {one}")
        );
        let many = vec![one; TEXT_MAX + 2];
        assert!(told(&many).ends_with(" and 2 more"), "{}", told(&many));
    }
}
