//! How runs ended.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::Choice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Equal,
    Told,
    Refused,
    Silent,
    Dead,
    Wrong,
}

/// How one run ended.
#[derive(Debug, Clone)]
pub struct Ending {
    class: Class,
    words: String,
}

impl Ending {
    fn new(class: Class, words: impl Into<String>) -> Ending {
        Ending { class, words: words.into() }
    }

    pub fn equal() -> Ending {
        Ending::new(Class::Equal, "")
    }

    pub fn told(what: &[String]) -> Ending {
        Ending::new(Class::Told, what.join("; "))
    }

    pub fn refused(by: &str, said: &str) -> Ending {
        Ending::new(Class::Refused, format!("by {by}: {said}"))
    }

    pub fn silent(what: &[String]) -> Ending {
        Ending::new(Class::Silent, what.join("; "))
    }

    pub fn dead(said: &str) -> Ending {
        Ending::new(Class::Dead, said)
    }

    pub fn wrong(said: &str) -> Ending {
        Ending::new(Class::Wrong, said)
    }

    pub fn is_defect(&self) -> bool {
        matches!(self.class, Class::Silent | Class::Dead | Class::Wrong)
    }

    pub fn is_refused(&self) -> bool {
        self.class == Class::Refused
    }

    pub fn is_told(&self) -> bool {
        self.class == Class::Told
    }

    pub fn with_logs(mut self, kept: &Path) -> Ending {
        self.words.push_str(&format!("\n  logs: {}", kept.display()));
        self
    }

    /// Says which changes blue did not take.
    pub fn with_changes(mut self, refused_by_blue: &[String]) -> Ending {
        if !refused_by_blue.is_empty() {
            self.words.push_str(&format!(" (blue refused: {})", refused_by_blue.join("; ")));
        }
        self
    }

    /// Whether it is a defect of the product.
    pub fn is_wrong(&self, choice: &Choice) -> bool {
        self.is_defect() || (self.is_refused() && choice.is_harmless())
    }

    /// The class, and what was said of a defect or a refusal.
    pub fn describe(&self) -> String {
        let class = format!("{:?}", self.class).to_uppercase();
        match self.words.is_empty() {
            true => class,
            false => format!("{class} {}", self.words),
        }
    }
}

/// All runs together.
#[derive(Debug, Clone)]
pub struct Summary {
    seed: u64,
    counts: BTreeMap<Class, u64>,
    false_refusals: u64,
    wrong: Vec<String>,
}

impl Summary {
    pub fn new(seed: u64) -> Summary {
        Summary { seed, counts: BTreeMap::new(), false_refusals: 0, wrong: Vec::new() }
    }

    pub fn add(&mut self, choice: &Choice, ending: Ending) {
        let told_too_much = ending.is_told() && !choice.may_be_told();
        let class = if told_too_much { Class::Silent } else { ending.class };
        *self.counts.entry(class).or_default() += 1;
        if ending.is_refused() && choice.is_harmless() {
            self.false_refusals += 1;
        }
        if ending.is_wrong(choice) || told_too_much {
            self.wrong.push(format!("{}: {}", choice.describe(), ending.describe()));
        }
    }

    pub fn merge(&mut self, other: Summary) {
        for (class, count) in other.counts {
            *self.counts.entry(class).or_default() += count;
        }
        self.false_refusals += other.false_refusals;
        self.wrong.extend(other.wrong);
    }

    fn count(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or(0)
    }

    pub fn runs(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Whether no run is a defect, and none was refused that had nothing to refuse.
    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Each defect, with the choice that plays it again.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    pub fn json(&self) -> String {
        json!({
            "unseen": self.runs(),
            "silent": self.count(Class::Silent),
            "dead": self.count(Class::Dead),
            "wrong": self.count(Class::Wrong),
            "refused": self.count(Class::Refused),
            "false_refusals": self.false_refusals,
            "told": self.count(Class::Told),
            "equal": self.count(Class::Equal),
            "seed": self.seed,
        })
        .to_string()
    }
}
