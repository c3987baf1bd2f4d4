//! What is no row: definitions of both sides, compared.

use std::collections::BTreeMap;

use super::wire::ObjectFinding;
use crate::api::Severity;
use crate::side::Side;

/// How a property is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rigor {
    /// Any difference is one.
    Exact,
    /// SQL that the server has put together from its catalogs. Versions write the same thing
    /// differently, so between versions it is worth a look, and a difference within one.
    Text,
    /// SQL that versions are known to write in many ways: compared within one version only.
    Printed,
}

/// An object as one side describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `table`, `column`, `constraint`, `index`, `trigger`, `type`, `sequence`, `view`, `function`, `policy`,
    /// `row security`, `domain`.
    pub kind: String,
    /// Unique within its kind; quoted.
    pub name: String,
    /// What it is like.
    pub properties: Vec<Property>,
}

/// One property of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// In words.
    pub name: String,
    /// As text. Never data of a row.
    pub value: String,
    /// How it is compared.
    pub rigor: Rigor,
}

/// Everything that is not the same. `sides`: source and target.
pub fn compare(
    [source, target]: [&[Described]; 2],
    [from, to]: [Side; 2],
    same_major: bool,
) -> Vec<ObjectFinding> {
    let mut findings = Vec::new();
    let by_name = |all: &'_ [Described]| -> BTreeMap<(String, String), Described> {
        let named = |one: &Described| ((one.kind.clone(), one.name.clone()), one.clone());
        all.iter().map(named).collect()
    };
    let (source, mut target) = (by_name(source), by_name(target));
    for ((kind, object), here) in source {
        let finding = |severity, what: String| ObjectFinding {
            severity,
            kind: kind.clone(),
            object: object.clone(),
            what,
        };
        let Some(there) = target.remove(&(kind.clone(), object.clone())) else {
            findings.push(finding(Severity::Fail, format!("{to} does not have it")));
            continue;
        };
        for property in &here.properties {
            let other = there.properties.iter().find(|other| other.name == property.name);
            let value = other.map_or("unknown", |other| other.value.as_str());
            let is_skipped = property.rigor == Rigor::Printed && !same_major;
            if value == property.value || is_skipped {
                continue;
            }
            // What one side can tell exactly is no matter of how the other writes it.
            let is_text = |one: &Property| one.rigor == Rigor::Text;
            let severity = match is_text(property) && other.is_none_or(is_text) {
                true if !same_major => Severity::Warn,
                _ => Severity::Fail,
            };
            let what = format!("{}: {} on {from}, {value} on {to}", property.name, property.value);
            findings.push(finding(severity, what));
        }
    }
    for ((kind, object), _) in target {
        // More than there has to be; most often an index that somebody added for later.
        let severity = match kind.as_str() {
            "index" | "view" | "function" => Severity::Warn,
            _ => Severity::Fail,
        };
        let what = format!("{from} does not have it");
        findings.push(ObjectFinding { severity, kind, object, what });
    }
    findings
}

/// Where a sequence is on both sides. `behind` is normal before a cutover, which sets it.
pub fn compare_sequence(
    object: &str,
    increment: i64,
    [source, target]: [(i64, bool); 2],
    [from, to]: [Side; 2],
) -> Option<ObjectFinding> {
    // What nextval gives next, in the sequence's own direction.
    let next = |(last, is_called): (i64, bool)| match is_called {
        true => i128::from(last) + i128::from(increment),
        false => i128::from(last),
    };
    let steps =
        (next(source) - next(target)) / i128::from(if increment == 0 { 1 } else { increment });
    (steps > 0).then(|| ObjectFinding {
        severity: Severity::Warn,
        kind: "sequence".into(),
        object: object.to_owned(),
        what: format!("{to} is {steps} values behind {from}; the next run sets it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 2] = [Side::Blue, Side::Green];

    fn index(name: &str, valid: &str, text: &str) -> Described {
        let property = |name: &str, value: &str, rigor| Property {
            name: name.into(),
            value: value.into(),
            rigor,
        };
        Described {
            kind: "index".into(),
            name: name.into(),
            properties: vec![
                property("valid", valid, Rigor::Exact),
                property("definition", text, Rigor::Text),
            ],
        }
    }

    #[test]
    fn what_is_missing_invalid_or_other_is_found() {
        let source = [index("a", "yes", "x"), index("b", "yes", "x"), index("c", "yes", "x")];
        let target = [index("b", "no", "x"), index("c", "yes", "y"), index("d", "yes", "x")];
        let found = |same_major| -> Vec<(String, Severity)> {
            compare([&source, &target], SIDES, same_major)
                .into_iter()
                .map(|found| (found.object, found.severity))
                .collect()
        };
        let at = |name: &str, severity| (name.to_owned(), severity);
        use Severity::{Fail, Warn};
        assert_eq!(found(true), [at("a", Fail), at("b", Fail), at("c", Fail), at("d", Warn)]);
        assert_eq!(found(false)[2], at("c", Warn));
        assert_eq!(compare([&source, &source], SIDES, true), []);
    }

    #[test]
    fn a_sequence_is_behind_in_its_own_direction() {
        let behind = |increment, both| compare_sequence("s", increment, both, SIDES).is_some();
        assert!(behind(1, [(10, true), (9, true)]) && !behind(1, [(9, true), (10, true)]));
        assert!(behind(-1, [(-10, true), (-9, true)]) && !behind(-1, [(-9, true), (-10, true)]));
        assert!(!behind(1, [(1, false), (1, false)]) && behind(1, [(1, true), (1, false)]));
        assert!(!behind(1, [(i64::MAX, true), (i64::MAX, true)]));
    }
}
