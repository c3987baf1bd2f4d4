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
    /// That only where green's value is lower.
    Lower,
    /// That only where green's value is lower; 0 is no limit.
    Limit,
    /// What is made later is another thing, or it is a matter of the server.
    Later,
    /// Told where green has it on and blue has not; the other way round it is looked at with what needs it.
    OnlyThere,
}

/// Settings, and how they are written.
const SETTINGS: [(&str, Matter); 84] = [
    ("sql_mode", Matter::Result),
    ("time_zone", Matter::Result),
    ("lower_case_table_names", Matter::Result),
    ("explicit_defaults_for_timestamp", Matter::Result),
    ("transaction_isolation", Matter::Result),
    ("tx_isolation", Matter::Result),
    ("transaction_read_only", Matter::Result),
    ("tx_read_only", Matter::Result),
    ("autocommit", Matter::Result),
    ("completion_type", Matter::Result),
    ("foreign_key_checks", Matter::Result),
    ("check_constraint_checks", Matter::Result),
    ("sql_require_primary_key", Matter::Result),
    ("sql_auto_is_null", Matter::Result),
    ("sql_safe_updates", Matter::Result),
    ("sql_select_limit", Matter::Result),
    ("updatable_views_with_limit", Matter::Result),
    ("div_precision_increment", Matter::Result),
    ("windowing_use_high_precision", Matter::Result),
    ("default_week_format", Matter::Result),
    ("lc_time_names", Matter::Result),
    ("max_sort_length", Matter::Result),
    ("block_encryption_mode", Matter::Result),
    ("default_regex_flags", Matter::Result),
    ("default_collation_for_utf8mb4", Matter::Result),
    ("old_mode", Matter::Result),
    ("secure_timestamp", Matter::Result),
    ("mandatory_roles", Matter::Result),
    ("activate_all_roles_on_login", Matter::Result),
    ("local_infile", Matter::Result),
    ("init_connect", Matter::Result),
    ("ft_min_word_len", Matter::Result),
    ("ft_max_word_len", Matter::Result),
    ("innodb_ft_min_token_size", Matter::Result),
    ("innodb_ft_max_token_size", Matter::Result),
    ("innodb_ft_enable_stopword", Matter::Result),
    ("innodb_ft_server_stopword_table", Matter::Result),
    ("require_secure_transport", Matter::Result),
    ("group_concat_max_len", Matter::Lower),
    ("cte_max_recursion_depth", Matter::Lower),
    ("max_recursive_iterations", Matter::Lower),
    ("max_sp_recursion_depth", Matter::Lower),
    ("max_allowed_packet", Matter::Lower),
    ("max_join_size", Matter::Lower),
    ("max_prepared_stmt_count", Matter::Lower),
    ("max_statement_time", Matter::Limit),
    ("max_execution_time", Matter::Limit),
    ("max_user_connections", Matter::Limit),
    ("idle_transaction_timeout", Matter::Limit),
    ("max_connections", Matter::Later),
    ("auto_increment_increment", Matter::Later),
    ("auto_increment_offset", Matter::Later),
    ("unique_checks", Matter::Later),
    ("innodb_strict_mode", Matter::Later),
    ("innodb_default_row_format", Matter::Later),
    ("innodb_rollback_on_timeout", Matter::Later),
    ("default_storage_engine", Matter::Later),
    ("default_table_encryption", Matter::Later),
    ("innodb_encrypt_tables", Matter::Later),
    ("innodb_encrypt_log", Matter::Later),
    ("aria_encrypt_tables", Matter::Later),
    ("encrypt_binlog", Matter::Later),
    ("binlog_encryption", Matter::Later),
    ("innodb_redo_log_encrypt", Matter::Later),
    ("innodb_undo_log_encrypt", Matter::Later),
    ("restrict_fk_on_non_standard_key", Matter::Later),
    ("sql_generate_invisible_primary_key", Matter::Later),
    ("log_bin_trust_function_creators", Matter::Later),
    ("partial_revokes", Matter::Later),
    ("default_authentication_plugin", Matter::Later),
    ("authentication_policy", Matter::Later),
    ("default_password_lifetime", Matter::Later),
    ("disconnect_on_expired_password", Matter::Later),
    ("skip_name_resolve", Matter::Later),
    ("tls_version", Matter::Later),
    ("secure_file_priv", Matter::Later),
    ("innodb_lock_wait_timeout", Matter::Later),
    ("lock_wait_timeout", Matter::Later),
    ("wait_timeout", Matter::Later),
    ("interactive_timeout", Matter::Later),
    ("tmp_table_size", Matter::Later),
    ("max_heap_table_size", Matter::Later),
    ("binlog_row_image", Matter::Later),
    ("event_scheduler", Matter::OnlyThere),
];

/// Only set when the server starts.
const FIXED: [&str; 15] = [
    "innodb_encrypt_log",
    "encrypt_binlog",
    "lower_case_table_names",
    "ft_min_word_len",
    "ft_max_word_len",
    "innodb_ft_min_token_size",
    "innodb_ft_max_token_size",
    "innodb_rollback_on_timeout",
    "secure_timestamp",
    "secure_file_priv",
    "skip_name_resolve",
    "tls_version",
    "default_authentication_plugin",
    "authentication_policy",
    "disconnect_on_expired_password",
];

/// Of modes only these are in one family or version, or mean nothing for what a statement comes to.
const MODES_APART: [&str; 2] = ["NO_AUTO_CREATE_USER", "TIME_ROUND_FRACTIONAL"];

/// What a difference of this setting comes to on these sides; none where it is the same. One that only one of the
/// versions has can't be the same.
fn difference(name: &str, matter: Matter, blue: &Variables, green: &Variables) -> Option<Matter> {
    if name == "time_zone" {
        return (zone(blue) != zone(green)).then_some(matter);
    }
    let (here, there) = (blue.get(name)?, green.get(name)?);
    if name == "sql_mode" {
        let modes = |variables: &Variables| -> Vec<String> {
            let modes = variables.members(name).into_iter();
            modes.filter(|mode| !MODES_APART.contains(mode)).map(str::to_owned).collect()
        };
        return (modes(blue) != modes(green)).then_some(matter);
    }
    if here == there {
        return None;
    }
    let number = |text: &str| text.parse::<f64>().ok();
    let is_lower = number(there) < number(here);
    match matter {
        Matter::Result | Matter::Later => Some(matter),
        Matter::Lower if is_lower => Some(Matter::Result),
        Matter::Limit if number(there) != Some(0.0) && (number(here) == Some(0.0) || is_lower) => {
            Some(Matter::Result)
        }
        Matter::Lower | Matter::Limit => Some(Matter::Later),
        Matter::OnlyThere => green.is_on(name).then_some(Matter::Later),
    }
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
    // The two names of one setting.
    let has_both = |name: &str| {
        ["tx_isolation", "tx_read_only"].contains(&name)
            && [one, other].iter().all(|of| of.get(&name.replace("tx_", "transaction_")).is_some())
    };
    let found = SETTINGS.iter().filter(|(name, _)| !has_both(name));
    let found =
        found.filter_map(|(name, matter)| Some((*name, difference(name, *matter, one, other)?)));
    let (later, results): (Vec<_>, Vec<_>) =
        found.partition(|(_, matter)| *matter == Matter::Later);
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
        let shown = |(name, _): &(&str, Matter)| {
            let value = |variables: &Variables| match *name {
                "time_zone" => zone(variables).to_owned(),
                name => variables.get(name).unwrap_or_default().to_owned(),
            };
            format!("{name}: blue {:?}, green {:?}", value(one), value(other))
        };
        let statement = |(name, _): &(&str, Matter)| {
            let verb = if is_mariadb { "SET GLOBAL" } else { "SET PERSIST" };
            let value = one.get(name).unwrap_or_default();
            match value.parse::<f64>().is_ok() || matches!(value, "ON" | "OFF") {
                true => format!("{verb} {name} = {value}"),
                false => format!("{verb} {name} = {}", literal(value)),
            }
        };
        let finding = Finding::warning(id, Side::Green, what)
            .evidence(count(found.len(), "setting"))
            .objects(found.iter().map(shown).collect());
        let statements: Vec<String> =
            (found.iter()).filter(|(name, _)| !FIXED.contains(name)).map(statement).collect();
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
        let id = |name: &str, here: &str, there: &str| {
            let found = found(&[(name, here)], &[(name, there)]);
            found.first().map(|(id, _)| *id)
        };
        assert_eq!(id("group_concat_max_len", "1024", "100"), Some(ID[0]));
        assert_eq!(id("group_concat_max_len", "1024", "9999"), Some(ID[1]));
        assert_eq!(id("max_statement_time", "0.000000", "30.000000"), Some(ID[0]));
        assert_eq!(id("max_statement_time", "60.000000", "30.000000"), Some(ID[0]));
        assert_eq!(id("max_statement_time", "30.000000", "0.000000"), Some(ID[1]));
        assert_eq!(id("foreign_key_checks", "OFF", "ON"), Some(ID[0]));
        // Where events would not run, that is told with the events.
        assert_eq!(id("event_scheduler", "ON", "OFF"), None);
        assert_eq!(id("event_scheduler", "OFF", "ON"), Some(ID[1]));
        let later = found(&[("innodb_strict_mode", "ON")], &[("innodb_strict_mode", "OFF")]);
        assert_eq!(later[0].0, ID[1]);
        // One of the servers does not know it.
        assert!(found(&[("local_infile", "ON")], &[]).is_empty());
        let modes = |modes| [("sql_mode", modes)];
        assert!(found(&modes("A,NO_AUTO_CREATE_USER,B"), &modes("B,A")).is_empty());
        assert_eq!(found(&modes("A,B"), &modes("A")).len(), 1);
    }
}
