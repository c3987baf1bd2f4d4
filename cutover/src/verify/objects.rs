//! What is no row: definitions of both sides, compared.

use std::collections::{BTreeMap, BTreeSet};

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
    /// SQL that is written in many ways: by another version, and by the same one once it was restored from a dump. Not
    /// compared here, but by what one server prints of both.
    Printed,
    /// Changes neither results nor rights: a difference is worth a look.
    Noted,
    /// `yes` or `no`: what is `yes` on the source has to be so on the target, too.
    AtLeast,
}

/// An object as one side describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// `table`, `column`, `constraint`, `index`, `trigger`, `type`, `sequence`, `view`, `function`, `policy`,
    /// `row security`, `domain`, `rule`, `extension`, `event trigger`, `publication`, `owner`, `grant`,
    /// `default privilege`, `comment`, `role`, `membership`, `setting`.
    pub kind: String,
    /// Unique within its kind; quoted.
    pub name: String,
    /// What it is like.
    pub properties: Vec<Property>,
    /// The statement that makes it as it is here, where it can be written exactly.
    pub make: Option<String>,
    /// The statement that takes it away.
    pub unmake: Option<String>,
}

impl Described {
    /// Without statements.
    pub fn new(
        kind: impl Into<String>,
        name: impl Into<String>,
        properties: Vec<Property>,
    ) -> Self {
        Self { kind: kind.into(), name: name.into(), properties, make: None, unmake: None }
    }

    /// What a side that lacks it has to do.
    pub fn made_by(self, statement: impl Into<String>) -> Self {
        Self { make: Some(statement.into()), ..self }
    }

    /// What a side that has it too much has to do.
    pub fn unmade_by(self, statement: impl Into<String>) -> Self {
        Self { unmake: Some(statement.into()), ..self }
    }

    fn is(&self, property: &str, value: &str) -> bool {
        self.properties.iter().any(|one| one.name == property && one.value == value)
    }
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
    /// The statement that gives the other side this value, where it can be written exactly.
    pub fix: Option<String>,
}

impl Property {
    /// Without a statement.
    pub fn new(name: impl Into<String>, value: impl ToString, rigor: Rigor) -> Self {
        Self { name: name.into(), value: value.to_string(), rigor, fix: None }
    }

    /// What the other side has to do to have the same value.
    pub fn set_by(self, statement: impl Into<String>) -> Self {
        Self { fix: Some(statement.into()), ..self }
    }
}

/// Kinds that change neither results nor rights if one is missing.
const NOTED: [&str; 6] = [
    "publication",
    "comment",
    "event trigger",
    "statistics",
    // Each server brings other privileges, and a service changes them by itself.
    "changed privilege",
    "security label",
];
/// Kinds of which the target may have more than the source; most often an index that somebody added
/// for later.
const MORE: [&str; 6] = ["index", "view", "function", "extension", "role", "schema"];

/// A function's name without its schema and arguments. Among functions of one name the server chooses by
/// the arguments of a call and the search path, so one more may take the calls of another.
fn bare(function: &str) -> &str {
    let name = function.split_once("\"(").map_or(function, |(name, _)| name);
    name.rsplit_once("\".\"").map_or(name, |(_, name)| name)
}

/// By kind and name. Of two with the same, the last.
fn by_name(all: &[Described]) -> BTreeMap<(&str, &str), &Described> {
    all.iter().map(|one| ((one.kind.as_str(), one.name.as_str()), one)).collect()
}

/// Everything that is not the same. `sides`: source and target.
pub fn compare(
    [source, target]: [&[Described]; 2],
    [from, to]: [Side; 2],
    same_major: bool,
) -> Vec<ObjectFinding> {
    let mut findings = Vec::new();
    let (source, mut target) = (by_name(source), by_name(target));
    let functions = source.keys().filter(|(kind, _)| *kind == "function");
    let called: BTreeSet<&str> = functions.map(|(_, name)| bare(name)).collect();
    for ((kind, object), here) in source {
        let finding = |severity, what: String, fix: Option<String>| ObjectFinding {
            severity,
            kind: kind.to_owned(),
            object: object.to_owned(),
            what,
            fix: fix.map(|fix| format!("on {to}: {fix}")),
        };
        let Some(there) = target.remove(&(kind, object)) else {
            // No dump has an invalid index in it, and no query uses one.
            if kind == "index" && here.is("valid", "no") {
                let what = format!("it is invalid on {from}, and {to} does not have it");
                let fix = format!("on {from}: REINDEX or DROP it");
                findings
                    .push(ObjectFinding { fix: Some(fix), ..finding(Severity::Warn, what, None) });
                continue;
            }
            let severity = match NOTED.contains(&kind) {
                true => Severity::Warn,
                false => Severity::Fail,
            };
            findings.push(finding(severity, format!("{to} does not have it"), here.make.clone()));
            continue;
        };
        let again = || match (&there.unmake, &here.make) {
            (_, Some(make)) if make.starts_with("CREATE OR REPLACE ") => Some(make.clone()),
            (Some(unmake), Some(make)) => Some(format!("{unmake}; {make}")),
            _ => None,
        };
        for property in &here.properties {
            let other = there.properties.iter().find(|other| other.name == property.name);
            let value = other.map_or("unknown", |other| other.value.as_str());
            let is_skipped = match property.rigor {
                Rigor::Printed => true,
                Rigor::AtLeast => property.value == "no",
                Rigor::Exact | Rigor::Text | Rigor::Noted => false,
            };
            if value == property.value || is_skipped {
                continue;
            }
            // What one side can tell exactly is no matter of how the other writes it.
            let is_text = |one: &Property| one.rigor == Rigor::Text;
            let severity = match is_text(property) && other.is_none_or(is_text) {
                true if !same_major => Severity::Warn,
                _ if property.rigor == Rigor::Noted => Severity::Warn,
                _ => Severity::Fail,
            };
            let what = format!("{}: {} on {from}, {value} on {to}", property.name, property.value);
            let fix = property.fix.clone().or_else(again);
            findings.push(finding(severity, what, fix));
        }
    }
    for ((kind, object), there) in target {
        let is_taken = kind == "function" && called.contains(bare(object));
        let is_noted = NOTED.contains(&kind) || (MORE.contains(&kind) && !is_taken);
        let severity = if is_noted { Severity::Warn } else { Severity::Fail };
        let what = format!("{from} does not have it");
        let fix = there.unmake.as_ref().map(|unmake| format!("on {to}: {unmake}"));
        let (kind, object) = (kind.to_owned(), object.to_owned());
        findings.push(ObjectFinding { severity, kind, object, what, fix });
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
        fix: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 2] = [Side::Blue, Side::Green];

    fn index(name: &str, valid: &str, text: &str) -> Described {
        let properties = vec![
            Property::new("valid", valid, Rigor::Exact),
            Property::new("definition", text, Rigor::Text),
        ];
        Described::new("index", name, properties)
            .made_by(format!("CREATE INDEX {name}"))
            .unmade_by(format!("DROP INDEX {name}"))
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
    fn each_difference_has_the_statement_that_ends_it() {
        let source = [index("a", "yes", "x"), index("b", "yes", "x")];
        let target = [index("b", "no", "x"), index("d", "yes", "x")];
        let fixes: Vec<_> = compare([&source, &target], SIDES, true)
            .into_iter()
            .map(|found| found.fix.unwrap_or_default())
            .collect();
        let expected = ["CREATE INDEX a", "DROP INDEX b; CREATE INDEX b", "DROP INDEX d"];
        assert_eq!(fixes, expected.map(|sql| format!("on green: {sql}")));
    }

    #[test]
    fn one_more_function_counts_if_it_may_take_the_calls_of_another() {
        let function = |name: &str| Described::new("function", name, Vec::new());
        let source = [function("\"sales\".\"tax\"(n numeric)")];
        let severity = |extra: &str| {
            let target = [source[0].clone(), function(extra)];
            let found = compare([&source, &target], SIDES, true);
            assert_eq!(found.len(), 1);
            found[0].severity
        };
        assert_eq!(severity("\"public\".\"tax\"(n integer)"), Severity::Fail);
        assert_eq!(severity("\"sales\".\"taxes\"(n numeric)"), Severity::Warn);
    }

    #[test]
    fn an_index_that_is_invalid_on_the_source_is_no_reason_to_refuse() {
        let source = [index("a", "no", "x")];
        let found = compare([&source, &[]], SIDES, false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Warn);
        assert_eq!(found[0].fix.as_deref(), Some("on blue: REINDEX or DROP it"));
    }

    #[test]
    fn what_the_source_has_not_filled_need_not_be_filled() {
        let view = |populated: &str| {
            let properties = vec![Property::new("populated", populated, Rigor::AtLeast)];
            [Described::new("view", "m", properties)]
        };
        let found = |here: &str, there: &str| compare([&view(here), &view(there)], SIDES, true);
        assert_eq!(found("no", "yes"), []);
        assert_eq!(found("yes", "no")[0].severity, Severity::Fail);
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
