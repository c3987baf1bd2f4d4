//! Options of tables: how rows are stored, and how a server looks after them. Statements come to the same whatever
//! they are, so a difference is told and refuses nothing.
//!
//! Encryption at rest is the exception. Nobody's right in the database depends on it, but whoever gets at the disk or
//! at a backup reads what somebody meant to hide. So a target that lacks it refuses a flip forward. A way back is told
//! of it only: a blue that never encrypted is as good as it was.

use std::collections::{BTreeMap, BTreeSet};

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;
use decoders::mysql::server::literal;

/// Options that a table's statement has given, by name in lower case.
pub(super) type Options = BTreeMap<String, String>;

/// By how many bytes a table's file grows: asked for by itself, because no `create_options` has it.
pub(super) const GROWTH: &str = "autoextend_size";

/// `create_options` of information_schema.tables, without what is there anyway or is a state: `partitioned`, whether a
/// secondary engine has been loaded, and values that come to no option.
pub(super) fn parse(text: &str) -> Options {
    let mut rest = text.trim_start();
    let mut options = Options::new();
    let mut before = String::new();
    while !rest.is_empty() {
        let (name, after) = word(rest, |c| c == '=' || c.is_whitespace());
        let name = format!("{before}{}", name.to_ascii_lowercase());
        let Some(value) = after.strip_prefix('=') else {
            // `DATA DIRECTORY='..'` is one name; `partitioned` has no value.
            before =
                if matches!(name.as_str(), "data" | "index") { name + " " } else { String::new() };
            rest = after.trim_start();
            continue;
        };
        let (value, after) = word(value, char::is_whitespace);
        if let Some(value) = meant(&name, value) {
            options.insert(name, value);
        }
        before.clear();
        rest = after.trim_start();
    }
    options
}

/// A quoted text without its quotes, or what comes before `ends`; and what follows.
fn word(text: &str, ends: impl Fn(char) -> bool) -> (String, &str) {
    let Some(quote) = text.chars().next().filter(|first| ['`', '\'', '"'].contains(first)) else {
        let (word, rest) = text.split_at(text.find(ends).unwrap_or(text.len()));
        return (word.to_owned(), rest);
    };
    let mut word = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            word.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            word.push(quote);
        } else {
            return (word, &text[at + 1..]);
        }
    }
    (word, "")
}

/// A value as all versions would write it; `None` where it comes to no option.
fn meant(name: &str, value: String) -> Option<String> {
    let value = if name.ends_with("directory") { value } else { value.to_ascii_lowercase() };
    let means_nothing = match name {
        "secondary_load" => true,
        "compression" => matches!(value.as_str(), "" | "none"),
        "encryption" => value == "n",
        _ => value == "default",
    };
    if means_nothing {
        return None;
    }
    Some(match (name, value.as_str()) {
        ("page_compressed", "on" | "yes" | "true") => "1".to_owned(),
        ("page_compressed", "off" | "no" | "false") => "0".to_owned(),
        _ => value,
    })
}

/// What ALTER TABLE writes for an option, and what takes it away. `None`: no statement changes it, or
/// the option is an engine's own, which may hold a secret.
fn clause(name: &str, value: Option<&String>) -> Option<String> {
    let or = |default: &str| {
        let value = value.map_or(default, String::as_str);
        // Whoever owns the table may have written it.
        let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        is_plain.then(|| format!("{} = {}", name.to_uppercase(), value.to_uppercase()))
    };
    let or_text = |default: &str| {
        let value =
            value.map_or_else(|| default.to_owned(), |value| literal(&value.to_uppercase()));
        Some(format!("{} = {value}", name.to_uppercase()))
    };
    match name {
        "row_format"
        | "stats_persistent"
        | "stats_auto_recalc"
        | "stats_sample_pages"
        | "pack_keys"
        | "page_compressed"
        | "page_compression_level"
        | "encrypted"
        | "encryption_key_id"
        | "transactional"
        | "page_checksum" => or("DEFAULT"),
        "key_block_size" | "avg_row_length" | "max_rows" | "min_rows" | "checksum"
        | "delay_key_write" | GROWTH => or("0"),
        "compression" => or_text("''"),
        "encryption" => or_text("'N'"),
        "secondary_engine" => or("NULL"),
        _ => None,
    }
}

/// Whether a value may be shown.
fn is_known(name: &str) -> bool {
    name.ends_with(" directory") || clause(name, None).is_some()
}

fn is_encrypted(options: &Options) -> bool {
    let is = |name: &str, value: &str| options.get(name).is_some_and(|one| one == value);
    is("encryption", "y") || is("encrypted", "yes")
}

/// What differs, table by table, for the tables that both sides have, but for the option that is `left_out`. All are
/// named by their quoted names.
pub(super) fn compare(
    both: [&BTreeMap<String, Options>; 2],
    tables: &BTreeSet<&str>,
    left_out: Option<&str>,
    [from, to]: [Side; 2],
) -> Vec<ObjectFinding> {
    let none = Options::new();
    let names: BTreeSet<&String> = both[0].keys().chain(both[1].keys()).collect();
    let mut findings = Vec::new();
    for table in names.into_iter().filter(|table| tables.contains(table.as_str())) {
        let [here, there] = both.map(|all| all.get(table).unwrap_or(&none));
        let options: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        let differs =
            |name: &&String| here.get(*name) != there.get(*name) && left_out != Some(name.as_str());
        let differing: Vec<&String> = options.into_iter().filter(differs).collect();
        if differing.is_empty() {
            continue;
        }
        let shown = |name: &&String| {
            let value = |of: &Options| match of.get(*name) {
                None => "not set".to_owned(),
                Some(_) if !is_known(name) => "set otherwise".to_owned(),
                Some(value) => value.to_uppercase(),
            };
            format!("{} {} on {from}, {} on {to}", name.to_uppercase(), value(here), value(there))
        };
        let mut what = differing.iter().map(shown).collect::<Vec<_>>().join("; ");
        let is_bared = is_encrypted(here) && !is_encrypted(there);
        if is_bared {
            what.push_str(&format!("; whoever gets at {to}'s disk or backups reads the rows"));
        }
        let clauses: Option<Vec<String>> =
            differing.iter().map(|name| clause(name, here.get(*name))).collect();
        findings.push(ObjectFinding {
            severity: match is_bared && from == Side::Blue {
                true => Severity::Fail,
                false => Severity::Warn,
            },
            kind: "table".into(),
            object: table.clone(),
            what: format!("options: {what}"),
            fix: clauses.map(|all| format!("on {to}: ALTER TABLE {table} {}", all.join(", "))),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).into_iter().collect()
    }

    fn found(here: &str, there: &str, sides: [Side; 2]) -> Vec<ObjectFinding> {
        let of = |text: &str| BTreeMap::from([("`d`.`t`".to_owned(), parse(text))]);
        compare([&of(here), &of(there)], &BTreeSet::from(["`d`.`t`"]), None, sides)
    }

    const FORWARD: [Side; 2] = [Side::Blue, Side::Green];

    #[test]
    fn options_are_read_as_each_server_prints_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(parsed("partitioned"), []);
        assert_eq!(
            parsed("row_format=COMPRESSED KEY_BLOCK_SIZE=8 partitioned COMPRESSION=\"Zlib\""),
            [
                pair("compression", "zlib"),
                pair("key_block_size", "8"),
                pair("row_format", "compressed")
            ]
        );
        assert_eq!(
            parsed("DATA DIRECTORY='/srv/A b/' `page_compressed`='ON' `x``y`='it''s ='"),
            [
                pair("data directory", "/srv/A b/"),
                pair("page_compressed", "1"),
                pair("x`y", "it's =")
            ]
        );
        // What comes to nothing, and what is a state.
        for nothing in
            ["COMPRESSION=\"none\"", "ENCRYPTION='N'", "SECONDARY_LOAD=\"1\"", "a=DEFAULT"]
        {
            assert_eq!(parsed(nothing), [], "{nothing}");
        }
        for odd in ["=", "a=", "'", "a='x", "`", "=x y", "data"] {
            parse(odd);
        }
    }

    #[test]
    fn a_difference_has_the_statement_that_ends_it() {
        assert_eq!(found("row_format=DYNAMIC", "row_format=Dynamic", FORWARD), []);
        let one =
            &found("row_format=REDUNDANT COMPRESSION=\"zlib\"", "key_block_size=8", FORWARD)[0];
        assert_eq!(one.severity, Severity::Warn);
        assert!(
            one.what.contains("ROW_FORMAT REDUNDANT on blue, not set on green"),
            "{}",
            one.what
        );
        assert_eq!(
            one.fix.as_deref(),
            Some(
                "on green: ALTER TABLE `d`.`t` COMPRESSION = 'ZLIB', KEY_BLOCK_SIZE = 0, \
                 ROW_FORMAT = REDUNDANT"
            )
        );
        // No statement moves a file, and an engine's own option may be a password.
        let one = &found("DATA DIRECTORY='/a/' `password`='hunter2'", "`password`='x'", FORWARD)[0];
        assert!(one.fix.is_none() && !one.what.contains("hunter2"), "{one:?}");
        // A value that only looks like one.
        assert!(found("max_rows='1, DROP'", "", FORWARD)[0].fix.is_none());
    }

    #[test]
    fn a_green_that_does_not_encrypt_refuses_a_flip_and_no_way_back() {
        let back = [Side::Green, Side::Blue];
        for encrypted in ["ENCRYPTION='Y'", "`encrypted`='YES' `encryption_key_id`='2'"] {
            let severity = |here, there, sides| found(here, there, sides)[0].severity;
            assert_eq!(severity(encrypted, "", FORWARD), Severity::Fail);
            assert_eq!(severity(encrypted, "", back), Severity::Warn);
            assert_eq!(severity("", encrypted, FORWARD), Severity::Warn);
        }
        let fix = found("ENCRYPTION='Y'", "", FORWARD)[0].fix.clone();
        assert_eq!(fix.as_deref(), Some("on green: ALTER TABLE `d`.`t` ENCRYPTION = 'Y'"));
    }
}
