//! Texts that are written in many ways: by another version, and by the same one once they were restored from a dump
//! (`a IN ('x')` of a varchar column). The target reads the source's and prints it, in a transaction that is rolled back,
//! and prints its own. The same text then is the same definition.
//!
//! What is made for it is temporary, and waits for nobody: a table is named at most, never changed.
//!
//! Nobody's code runs meanwhile. Functions are not called when a text is read, but for a literal the input function of its
//! type is: that of a composite type, a range or an array may come to a domain, whose CHECK calls what its owner likes.
//! So a text with such a literal is not read.

use std::collections::{HashMap, HashSet};

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;
use cutover::verify::objects::{Described, Property};

use super::reader::{Reader, Trouble};

/// Which texts of which kinds.
const PRINTED: [(&str, &[&str]); 9] = [
    ("view", &["definition"]),
    ("policy", &["condition", "check"]),
    ("domain", &["definitions", "default"]),
    ("constraint", &["condition"]),
    ("index", &["predicate", "expressions"]),
    ("column", &["expression"]),
    ("trigger", &["condition"]),
    ("rule", &["definition"]),
    ("function", &["defaults and body"]),
];

/// Another property says whether these have a text.
const TOLD_IF_ABSENT: [&str; 4] = ["policy", "index", "column", "trigger"];

/// The value of a property that an object does not have.
const NOTHING: &str = "none";

/// How a text is read, and what prints it.
struct Probe {
    make: String,
    print: &'static str,
}

const VIEW: &str = "SELECT pg_get_viewdef('pg_temp.cutover_printed'::regclass)";
const DOMAIN: &str = "SELECT string_agg(conname || ' ' || pg_get_expr(conbin, 0), ', ' ORDER BY conname) \
     FROM pg_constraint WHERE contypid = 'pg_temp.cutover_printed'::regtype AND contype = 'c'";
const TRIGGER: &str = "SELECT pg_get_triggerdef(oid) FROM pg_trigger \
     WHERE tgrelid = 'pg_temp.cutover_printed'::regclass";
const RULE: &str = "SELECT pg_get_ruledef(oid) FROM pg_rewrite \
     WHERE ev_class = 'pg_temp.cutover_printed'::regclass AND rulename = 'printed'";
const FUNCTION: &str = "SELECT pg_get_functiondef('pg_temp.cutover_printed'::regproc)";

/// Compares what both sides have. Objects that one of them lacks are told elsewhere.
///
/// # Errors
/// The target's. What it can't read is among the findings.
pub(super) async fn compare(
    target: &Reader,
    [here, there]: [Vec<&Described>; 2],
    [from, to]: [Side; 2],
) -> Result<Vec<ObjectFinding>, Trouble> {
    let others: HashMap<(&str, &str), &Described> =
        there.iter().map(|other| ((other.kind.as_str(), other.name.as_str()), *other)).collect();
    let mut findings = Vec::new();
    let mut plain: Option<HashSet<String>> = None;
    for object in here {
        let Some((_, texts)) = PRINTED.iter().find(|(kind, _)| *kind == object.kind) else {
            continue;
        };
        let Some(other) = others.get(&(object.kind.as_str(), object.name.as_str())) else {
            continue;
        };
        for property in *texts {
            let [ours, theirs] = [object, *other].map(|one| text(one, property));
            let is_absent = ours == NOTHING || theirs == NOTHING;
            if ours == theirs || is_absent && TOLD_IF_ABSENT.contains(&object.kind.as_str()) {
                continue;
            }
            let plain = match &mut plain {
                Some(plain) => plain,
                None => plain.insert(begin(target).await?),
            };
            let probes = [ours, theirs].map(|text| match text == NOTHING {
                true => Text::Absent,
                false if calls(text, plain) => Text::Unreadable,
                false => probe(object, property, text).map_or(Text::Unreadable, Text::Probe),
            });
            let both = printed(target, &probes).await?;
            let what = match both.as_slice() {
                [Some(one), Some(other)] if one == other => continue,
                [Some(_), Some(_)] => format!("{property}: another on {to} than on {from}"),
                _ => format!(
                    "{property}: {from} and {to} write it differently, and {to} can't read both for us to tell \
                     whether it is the same"
                ),
            };
            findings.push(ObjectFinding {
                severity: Severity::Fail,
                kind: object.kind.clone(),
                object: object.name.clone(),
                what,
                fix: fix(object, other, property).map(|fix| format!("on {to}: {fix}")),
            });
        }
    }
    if plain.is_some() {
        target.sets("ROLLBACK").await?;
    }
    Ok(findings)
}

/// Begins the transaction. Types of users whose input functions call nobody: enums, and base types, which only a
/// superuser makes.
async fn begin(target: &Reader) -> Result<HashSet<String>, Trouble> {
    // The savepoint apart: what can't be parsed is refused as a whole.
    target
        .sets("BEGIN READ WRITE; SET LOCAL check_function_bodies = off; SAVEPOINT printed")
        .await?;
    // Ordinary event triggers are somebody's code, too.
    let as_replica = "SET LOCAL session_replication_role = replica; \
                      RELEASE SAVEPOINT printed; SAVEPOINT printed";
    match target.sets(as_replica).await {
        Err(trouble) if trouble.is_transient => return Err(trouble),
        Err(_) => _ = target.sets("ROLLBACK TO SAVEPOINT printed").await?,
        Ok(_) => {}
    }
    let sql = "SELECT format_type(t.oid, NULL) FROM pg_type t WHERE t.oid >= 16384 \
               AND (t.typtype = 'e' OR t.typtype = 'b' AND t.typelem = 0)";
    Ok(target.rows(sql).await?.into_iter().flatten().flatten().collect())
}

/// Whether reading the text may call somebody's code: a literal in it is of a type outside of `pg_catalog`, which is
/// written with its schema, and that type is not `plain`.
fn calls(text: &str, plain: &HashSet<String>) -> bool {
    // A body in a string is not looked into.
    let text = text.split_once("\nAS $").map_or(text, |(head, _)| head);
    text.match_indices("'::").any(|(at, found)| {
        let rest = &text[at + found.len()..];
        let mut is_quoted = false;
        let end = rest.find(|c: char| {
            if c == '"' {
                is_quoted = !is_quoted;
            }
            !(is_quoted || c == '"' || c == '.' || c == '_' || c == '$' || c.is_alphanumeric())
        });
        let name = &rest[..end.unwrap_or(rest.len())];
        name.contains('.') && !plain.contains(name)
    })
}

/// The statement that gives the target what the source has.
fn fix(object: &Described, other: &Described, property: &str) -> Option<String> {
    let own = object.properties.iter().find(|one| one.name == property);
    let make = object.make.as_ref();
    own.and_then(|one| one.fix.clone()).or_else(|| match (&other.unmake, make) {
        (_, Some(make)) if make.starts_with("CREATE OR REPLACE ") => Some(make.clone()),
        (Some(unmake), Some(make)) => Some(format!("{unmake}; {make}")),
        _ => make.cloned(),
    })
}

/// A text of one side.
enum Text {
    /// It has none.
    Absent,
    Unreadable,
    Probe(Probe),
}

/// What the target prints of both, inside of a transaction; `None`: it can't read it. Most can be read, so both are asked
/// for at once.
async fn printed(target: &Reader, texts: &[Text; 2]) -> Result<Vec<Option<String>>, Trouble> {
    if let [Text::Probe(one), Text::Probe(other)] = texts
        && let Some(both) = print(target, &[one, other]).await?
    {
        return Ok(both.into_iter().map(Some).collect());
    }
    let mut printed = Vec::new();
    for text in texts {
        printed.push(match text {
            Text::Absent => Some(String::new()),
            Text::Unreadable => None,
            Text::Probe(probe) => print(target, &[probe]).await?.and_then(|mut all| all.pop()),
        });
    }
    Ok(printed)
}

/// `None`: one of them can't be read.
async fn print(target: &Reader, probes: &[&Probe]) -> Result<Option<Vec<String>>, Trouble> {
    const BACK: &str = "ROLLBACK TO SAVEPOINT printed";
    let all: Vec<String> =
        probes.iter().map(|probe| format!("{}; {}; {BACK}", probe.make, probe.print)).collect();
    match target.sets(&all.join("; ")).await {
        Ok(sets) => {
            let texts: Vec<String> = sets.into_iter().flatten().flatten().flatten().collect();
            Ok((texts.len() == probes.len()).then_some(texts))
        }
        Err(trouble) if trouble.is_transient => Err(trouble),
        Err(_) => {
            target.sets(BACK).await?;
            Ok(None)
        }
    }
}

fn text<'a>(object: &'a Described, property: &str) -> &'a str {
    let found = object.properties.iter().find(|one| one.name == property);
    found.map_or(NOTHING, |one| one.value.as_str())
}

/// `None`: its name is not understood.
fn probe(object: &Described, property: &str, text: &str) -> Option<Probe> {
    let view = |query: String| Probe {
        make: format!("CREATE TEMPORARY VIEW cutover_printed AS {query}"),
        print: VIEW,
    };
    let table = || table_of(&object.name);
    Some(match (object.kind.as_str(), property) {
        ("view", _) => view(text.to_owned()),
        ("domain", "definitions") => Probe {
            make: format!("CREATE DOMAIN pg_temp.cutover_printed AS {text}"),
            print: DOMAIN,
        },
        ("domain", _) => view(format!("SELECT ({text}) AS printed")),
        // More than one expression is no column of a view.
        ("index", "expressions") => view(format!(
            "SELECT 1 AS printed FROM {} WHERE ROW({text}) IS NOT NULL",
            of_index(object)?
        )),
        ("index", _) => view(format!("SELECT ({text}) AS printed FROM {}", of_index(object)?)),
        ("trigger", _) => Probe {
            make: format!(
                "CREATE TEMPORARY TABLE cutover_printed (LIKE {}); \
                 CREATE TRIGGER printed AFTER UPDATE ON pg_temp.cutover_printed FOR EACH ROW WHEN ({text}) \
                 EXECUTE PROCEDURE pg_catalog.suppress_redundant_updates_trigger()",
                table()?
            ),
            print: TRIGGER,
        },
        ("rule", _) => Probe {
            make: format!(
                "CREATE TEMPORARY TABLE cutover_printed (LIKE {}); \
                 CREATE RULE printed AS ON {} TO pg_temp.cutover_printed{text}",
                table()?,
                object.properties.iter().find(|one| one.name == "event")?.value
            ),
            print: RULE,
        },
        ("function", _) => {
            let is = |one: &Property| one.name == "kind" && one.value == "procedure";
            let what = if object.properties.iter().any(is) { "PROCEDURE" } else { "FUNCTION" };
            Probe { make: format!("CREATE {what} pg_temp.cutover_printed{text}"), print: FUNCTION }
        }
        _ => view(format!("SELECT ({text}) AS printed FROM {}", table()?)),
    })
}

/// What belongs to a table has its name behind the table's, which has two parts in quotes. A name may look like anything,
/// and what is made of it is executed.
fn table_of(name: &str) -> Option<&str> {
    let part = |name: &str| {
        let mut quotes =
            name.strip_prefix('"')?.match_indices('"').map(|(at, _)| at + 1).peekable();
        loop {
            let at = quotes.next()?;
            // One that is written twice belongs to the name.
            match quotes.peek() {
                Some(&next) if next == at + 1 => _ = quotes.next(),
                _ => return Some(at + 1),
            }
        }
    };
    let schema = part(name)?;
    let table = schema + 1 + part(name.get(schema..)?.strip_prefix('.')?)?;
    name.get(table..)?.starts_with('.').then(|| &name[..table])
}

/// The table of an index.
fn of_index(index: &Described) -> Option<&str> {
    index.properties.iter().find(|one| one.name == "table").map(|one| one.value.as_str())
}

#[cfg(test)]
mod tests {
    use cutover::verify::objects::Rigor;

    use super::*;

    #[test]
    fn a_literal_of_a_users_type_may_call_somebody() {
        let plain = HashSet::from(["s.mood".to_owned(), "\"S p\".t".to_owned()]);
        for text in [
            "'a'::text",
            "'ok'::s.mood",
            "ARRAY['a'::s.mood]",
            "'a'::s.mood[]",
            "'x'::\"S p\".t(3)",
            "s.f('x'::\"char\")",
        ] {
            assert!(!calls(text, &plain), "{text}");
        }
        for text in ["'(1)'::s.c", "('{}'::s.d[])", "x = '(1)'::\"S p\".\"T\"", "'['::s.mood2"] {
            assert!(calls(text, &plain), "{text}");
        }
    }

    #[test]
    fn a_table_is_the_first_two_parts_of_a_name() {
        let table = "\"s.\"\"\".\"t \"\".\"\"\"";
        assert_eq!(table_of(&format!("{table}.\"a\"\".\"\"b\"")), Some(table));
        assert_eq!(table_of("\"s\".\"t\".\"c\""), Some("\"s\".\"t\""));
        for name in ["", "s.t.c", "\"s\".\"t\"", "\"s\".\"t", "\"s\"\".\"t\".c"] {
            assert_eq!(table_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_text_is_read_in_the_place_that_it_has() {
        let make = |kind: &str, name: &str, property: &str, text: &str| {
            let table = Property::new("table", "\"s\".\"t\"", Rigor::Exact);
            let object = Described::new(kind, name, vec![table]);
            probe(&object, property, text).map(|probe| probe.make)
        };
        let made = make("constraint", "\"s\".\"t\".\"c\"", "condition", "n > 0");
        let expected =
            "CREATE TEMPORARY VIEW cutover_printed AS SELECT (n > 0) AS printed FROM \"s\".\"t\"";
        assert_eq!(made.as_deref(), Some(expected));
        let made = make("index", "\"s\".\"i\"", "expressions", "lower(a), n + 1");
        assert!(
            made.is_some_and(|made| made.contains("FROM \"s\".\"t\" WHERE ROW(lower(a), n + 1)"))
        );
        let made =
            make("function", "\"s\".\"f\"(integer)", "defaults and body", "(n int)\n RETURNS int");
        assert!(
            made.is_some_and(|made| made.starts_with("CREATE FUNCTION pg_temp.cutover_printed(n"))
        );
        assert_eq!(make("constraint", "nameless", "condition", "true"), None);
    }
}
