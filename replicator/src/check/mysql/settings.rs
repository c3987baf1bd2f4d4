//! Global settings that decide what statements come to. No stream carries SET GLOBAL or SET PERSIST.

use decoders::mysql::catalog::Variables;
use decoders::mysql::server::literal;

use super::super::finding::{Finding, Fix, Side, count};
use super::facts::SideFacts;

/// Findings about settings.
pub const ID: [&str; 2] = ["settings", "settings-differ"];

/// What a difference of a setting means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Matter {
    /// The same statement gives something else, or is refused.
    Result,
    /// The same where green's value is lower.
    Lower,
    /// What is made later is another thing, or it is a matter of the server.
    Later,
}

/// Settings, and how they are written.
const SETTINGS: [(&str, Matter); 26] = [
    ("sql_mode", Matter::Result),
    ("time_zone", Matter::Result),
    ("lower_case_table_names", Matter::Result),
    ("explicit_defaults_for_timestamp", Matter::Result),
    ("transaction_isolation", Matter::Result),
    ("tx_isolation", Matter::Result),
    ("autocommit", Matter::Result),
    ("sql_require_primary_key", Matter::Result),
    ("sql_auto_is_null", Matter::Result),
    ("div_precision_increment", Matter::Result),
    ("default_week_format", Matter::Result),
    ("lc_time_names", Matter::Result),
    ("local_infile", Matter::Result),
    ("init_connect", Matter::Result),
    ("ft_min_word_len", Matter::Result),
    ("innodb_ft_min_token_size", Matter::Result),
    ("require_secure_transport", Matter::Result),
    ("group_concat_max_len", Matter::Lower),
    ("sql_select_limit", Matter::Lower),
    ("cte_max_recursion_depth", Matter::Lower),
    ("max_connections", Matter::Later),
    ("innodb_strict_mode", Matter::Later),
    ("default_storage_engine", Matter::Later),
    ("innodb_lock_wait_timeout", Matter::Later),
    ("wait_timeout", Matter::Later),
    ("binlog_row_image", Matter::Later),
];

/// Of modes only these are in one family or version, or mean nothing for what a statement comes to.
const MODES_APART: [&str; 2] = ["NO_AUTO_CREATE_USER", "TIME_ROUND_FRACTIONAL"];

/// Whether a setting is the same. One that only one of the versions has can't be.
fn differs(name: &str, matter: Matter, blue: &Variables, green: &Variables) -> bool {
    let (Some(here), Some(there)) = (blue.get(name), green.get(name)) else { return false };
    if name == "sql_mode" {
        let modes = |variables: &Variables| -> Vec<String> {
            let modes = variables.members(name).into_iter();
            modes.filter(|mode| !MODES_APART.contains(mode)).map(str::to_owned).collect()
        };
        return modes(blue) != modes(green);
    }
    if matter == Matter::Lower {
        return blue.number(name).zip(green.number(name)).is_some_and(|(one, other)| other < one);
    }
    here != there
}

/// The zone that times are told in: `SYSTEM` is another one on each host.
fn zone(variables: &Variables) -> &str {
    match variables.get("time_zone") {
        Some("SYSTEM") => variables.get("system_time_zone").unwrap_or("SYSTEM"),
        zone => zone.unwrap_or_default(),
    }
}

pub(super) fn evaluate(blue: &SideFacts, green: &SideFacts) -> Vec<Finding> {
    let (Ok(one), Ok(other)) = (&blue.variables, &green.variables) else { return Vec::new() };
    if blue.server.is_mariadb() != green.server.is_mariadb() {
        return Vec::new();
    }
    judge(one, other, green.server.is_mariadb())
}

fn judge(one: &Variables, other: &Variables, is_mariadb: bool) -> Vec<Finding> {
    let is_other = |(name, matter): &&(&str, Matter)| match *name {
        "time_zone" => zone(one) != zone(other),
        // The two names of one setting.
        "tx_isolation"
            if [one, other].iter().all(|of| of.get("transaction_isolation").is_some()) =>
        {
            false
        }
        name => differs(name, *matter, one, other),
    };
    let found: Vec<_> = SETTINGS.iter().filter(is_other).collect();
    let (later, results): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, matter)| *matter == Matter::Later);
    let mut findings = Vec::new();
    if results.is_empty() {
        let what = "settings that decide what statements come to are the same";
        findings.push(Finding::ok(ID[0], Side::Both, what));
    }
    let all = [
        (
            ID[0],
            "the same statements would come to something else on green, or be refused",
            results,
        ),
        (ID[1], "settings differ that do not change what a statement comes to", later),
    ];
    for (id, what, found) in all.into_iter().filter(|(.., found)| !found.is_empty()) {
        let shown = |(name, _): &&(&str, Matter)| {
            let value = |variables: &Variables| match *name {
                "time_zone" => zone(variables).to_owned(),
                name => variables.get(name).unwrap_or_default().to_owned(),
            };
            format!("{name}: blue {:?}, green {:?}", value(one), value(other))
        };
        let statement = |(name, _): &&(&str, Matter)| {
            let verb = if is_mariadb { "SET GLOBAL" } else { "SET PERSIST" };
            let value = one.get(name).unwrap_or_default();
            match value.parse::<i64>().is_ok() || matches!(value, "ON" | "OFF") {
                true => format!("{verb} {name} = {value}"),
                false => format!("{verb} {name} = {}", literal(value)),
            }
        };
        let finding = Finding::warning(id, Side::Green, what)
            .evidence(count(found.len(), "setting"))
            .objects(found.iter().map(shown).collect());
        // Some are set when the server starts, and a zone by name has to be known.
        let fixed = |name: &str| {
            matches!(
                name,
                "lower_case_table_names" | "ft_min_word_len" | "innodb_ft_min_token_size"
            )
        };
        let statements: Vec<String> =
            (found.iter()).filter(|(name, _)| !fixed(name)).map(statement).collect();
        let then = "set it in the configuration file too, for the next restart; sessions keep the old value";
        findings.push(finding.fix(match statements.is_empty() {
            true => Fix::advice("set it in green's configuration as on blue, and restart it"),
            false => Fix::Sql { side: Side::Green, statements, then: Some(then.to_owned()) },
        }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn found(blue: &[(&str, &str)], green: &[(&str, &str)]) -> Vec<(&'static str, Vec<String>)> {
        let findings = judge(&variables(blue), &variables(green), true);
        let told = findings.into_iter().filter(|finding| finding.severity != Severity::Ok);
        told.map(|finding| (finding.id, finding.objects)).collect()
    }

    #[test]
    fn a_setting_that_changes_results_is_told_from_others() {
        assert!(found(&[("time_zone", "+00:00")], &[("time_zone", "+00:00")]).is_empty());
        let zone = |zone, system| [("time_zone", zone), ("system_time_zone", system)];
        assert!(found(&zone("SYSTEM", "UTC"), &zone("SYSTEM", "UTC")).is_empty());
        let one = found(&zone("SYSTEM", "UTC"), &zone("SYSTEM", "CET"));
        assert_eq!(one, [(ID[0], vec!["time_zone: blue \"UTC\", green \"CET\"".to_owned()])]);
        let lower = found(&[("group_concat_max_len", "1024")], &[("group_concat_max_len", "100")]);
        assert_eq!(lower.len(), 1);
        assert!(
            found(&[("group_concat_max_len", "1024")], &[("group_concat_max_len", "9999")])
                .is_empty()
        );
        let later = found(&[("innodb_strict_mode", "ON")], &[("innodb_strict_mode", "OFF")]);
        assert_eq!(later[0].0, ID[1]);
        // One of the servers does not know it.
        assert!(found(&[("local_infile", "ON")], &[]).is_empty());
        let modes = |modes| [("sql_mode", modes)];
        assert!(found(&modes("A,NO_AUTO_CREATE_USER,B"), &modes("B,A")).is_empty());
        assert_eq!(found(&modes("A,B"), &modes("A")).len(), 1);
    }
}
