//! Differences of definitions that somebody has accepted, each with a reason.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A difference that a run may leave as it is, and why. Both are written down with the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Kind and name of the object as a plan shows them, quotes aside: `index public.orders_i`. A `*`
    /// stands for anything.
    pub object: String,
    /// Why; never empty.
    pub reason: String,
}

impl Accepted {
    /// Whether it is about this object.
    pub fn covers(&self, kind: &str, object: &str) -> bool {
        let plain = |text: &str| text.replace('"', "");
        matches(&plain(&self.object), &plain(&format!("{kind} {object}")))
    }
}

/// The first of `all` that is about this object.
pub fn accepting<'a>(all: &'a [Accepted], kind: &str, object: &str) -> Option<&'a Accepted> {
    all.iter().find(|one| one.covers(kind, object))
}

impl FromStr for Accepted {
    type Err = String;

    /// `OBJECT=REASON`; the object may have a `=` of its own only in its reason.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=').map(|(object, reason)| (object.trim(), reason.trim())) {
            Some((object, reason)) if !object.is_empty() && !reason.is_empty() => {
                Ok(Self { object: object.to_owned(), reason: reason.to_owned() })
            }
            _ => Err("expected 'KIND OBJECT=REASON', for example \
                      'index public.orders_i=built by hand'"
                .into()),
        }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_asked_for() {
        let accepted: Accepted = "index public.a=later, on purpose".parse().unwrap();
        assert_eq!(accepted.reason, "later, on purpose");
        for wrong in ["index public.a", "index public.a=", "=why", ""] {
            assert!(wrong.parse::<Accepted>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_named_is_accepted() {
        let covers = |pattern: &str| {
            let accepted = Accepted { object: pattern.into(), reason: "x".into() };
            accepted.covers("index", "\"public\".\"a\"")
        };
        assert!(covers("index public.a") && covers("index \"public\".\"a\"") && covers("index *"));
        assert!(covers("*.a") && covers("*"));
        assert!(!covers("index public.b") && !covers("view public.a") && !covers("index public"));
    }
}
