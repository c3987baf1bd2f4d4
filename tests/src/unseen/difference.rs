//! What a judge found, held against what the plan had said.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::report::Ending;

/// One difference between blue as it was and green as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The object's kind and name; behind `: ` what differs.
    pub what: String,
    /// Of rows: no word of a plan makes these acceptable.
    pub is_rows: bool,
}

impl Difference {
    pub fn of_rows(what: impl Into<String>) -> Difference {
        Difference { what: what.into(), is_rows: true }
    }

    pub fn of_others(what: impl Into<String>) -> Difference {
        Difference { what: what.into(), is_rows: false }
    }

    /// Whether the plan named the object: by the last part of its name, as a word of its own.
    fn is_told(&self, told: &str) -> bool {
        let name = self.what.split(": ").next().unwrap_or(&self.what);
        let name = name.split('(').next().unwrap_or(name);
        // A publication's table comes behind it: the plan names the publication.
        let name = match name.strip_prefix("PUBLICATION TABLE ") {
            Some(member) => member.split(' ').next().unwrap_or(member),
            None => name,
        };
        let last = name.rsplit(['.', ' ', '/']).find(|part| !part.is_empty());
        !self.is_rows && last.is_some_and(|last| has_word(told, last.trim_matches('"')))
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

/// What a plan, as JSON, tells of differences: the evidence of each check that is not all right.
pub fn told(plan: &str) -> Result<String> {
    let plan: Value = serde_json::from_str(plan).context("the plan is no JSON")?;
    let checks = plan["checks"].as_array().context("a plan without checks")?;
    let found = checks.iter().filter(|check| check["severity"] != "ok");
    Ok(found.filter_map(|check| check["evidence"].as_str()).collect::<Vec<_>>().join("\n"))
}

/// How a run ended that completed with these differences after `told`.
pub fn judge(found: BTreeSet<Difference>, told: &str) -> Ending {
    let (named, silent): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|difference| difference.is_told(told));
    let words = |all: Vec<Difference>| all.into_iter().map(|one| one.what).collect::<Vec<_>>();
    if !silent.is_empty() {
        return Ending::silent(&words(silent));
    }
    match named.is_empty() {
        true => Ending::equal(),
        false => Ending::told(&words(named)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_named_is_not_silent_but_rows_always_are() {
        let plan = json!({ "checks": [
            { "severity": "warn", "evidence": "comment on item", "fix": "x" },
            { "severity": "fail", "evidence": "index public.wide_a: valid", "fix": "x" },
            { "severity": "ok", "evidence": "tax", "fix": "x" },
        ]});
        let plan = told(&plan.to_string()).unwrap();
        let one = |difference| judge(BTreeSet::from([difference]), &plan);
        assert!(one(Difference::of_others("COMMENT public.item: a | b")).is_told());
        assert!(one(Difference::of_others("INDEX public.wide_a: a | b")).is_told());
        assert!(one(Difference::of_others("FUNCTION public.tax(numeric): a | b")).is_defect());
        assert!(one(Difference::of_others("INDEX public.wide: a | b")).is_defect());
        assert!(one(Difference::of_rows("public.item: 3 and 4 rows")).is_defect());
        assert!(!judge(BTreeSet::new(), "").is_defect());
    }
}
