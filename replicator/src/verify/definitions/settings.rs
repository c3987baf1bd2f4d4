//! Settings that decide what clients get: of the server, of the database, of roles; and the database's
//! own privileges, owner and comment.
//!
//! What counts for a database is what is in force there, wherever it was set: a line in the
//! configuration of one server is the same as `ALTER DATABASE` on the other.

use std::collections::{BTreeMap, BTreeSet};

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;
use decoders::postgres::catalog::quote_ident;

use super::super::reader::{Reader, Trouble};

/// Settings that change what a statement does or gives.
const CHANGE_RESULTS: [&str; 25] = [
    "array_nulls",
    "bytea_output",
    "datestyle",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "role",
    "row_security",
    "search_path",
    "session_replication_role",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_timeout",
    "transform_null_equals",
    "xmloption",
];
/// Settings of a server that are compared although they change no result.
const OTHERS: [&str; 9] = [
    "backslash_quote",
    "escape_string_warning",
    "lc_messages",
    "lo_compat_privileges",
    "password_encryption",
    "session_preload_libraries",
    "shared_preload_libraries",
    "timezone_abbreviations",
    "xmlbinary",
];
/// Settings whose value is a list of names, which are quoted in it already.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];
/// What a fence sets, and what it writes into the comment of what it has closed.
const CLOSED_BY: &str = "default_transaction_read_only";
const CLAIM: &str = "[cutover fence ";

/// What one side has.
#[derive(Debug, Default)]
pub(in super::super) struct Settings {
    database: String,
    /// Of the server, where nobody but the server has set it: value, and whether it is built in.
    server: BTreeMap<String, (String, bool)>,
    /// Of the database, by the setting's name in small letters.
    of_database: BTreeMap<String, String>,
    /// Of roles: role, whether in this database only, setting.
    of_roles: BTreeMap<(String, bool, String), String>,
    /// Privileges on the database, by grantee.
    privileges: BTreeMap<String, String>,
    comment: Option<String>,
    /// How many sessions the database takes; below zero: as many as the server.
    connections: i64,
    /// A fence of ours stands here: what it has set is no difference.
    is_closed: bool,
}

impl Settings {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.server.len() + self.of_database.len() + self.of_roles.len() + self.privileges.len()
    }

    fn in_force(&self, name: &str) -> Option<(&str, bool)> {
        match self.of_database.get(name) {
            Some(value) => Some((value, false)),
            None => self.server.get(name).map(|(value, built_in)| (value.as_str(), *built_in)),
        }
    }
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A setting's value as SET takes it.
fn value_sql(name: &str, value: &str) -> String {
    match LISTS.contains(&name) && !value.is_empty() {
        true => value.to_owned(),
        false => literal(value),
    }
}

/// Names of one time zone count as one.
fn plain<'a>(name: &str, value: &'a str) -> &'a str {
    match (name, value) {
        ("timezone", "Etc/UTC" | "Etc/UCT" | "UCT" | "Zulu" | "Universal" | "Etc/Universal") => {
            "UTC"
        }
        _ => value,
    }
}

pub(super) async fn read(reader: &Reader) -> Result<Settings, Trouble> {
    let mut found = Settings::default();
    let names: Vec<String> =
        CHANGE_RESULTS.iter().chain(&OTHERS).map(|name| format!("'{name}'")).collect();
    // What was set for our own role or by our own connection says nothing about the server. Reset
    // values are what the session began with.
    let server = format!(
        "SELECT lower(s.name), s.reset_val, s.reset_val = s.boot_val FROM pg_settings s \
         WHERE lower(s.name) IN ({}) AND s.source NOT IN ('user', 'database', 'database user', 'client')
           AND NOT EXISTS (SELECT FROM pg_db_role_setting r CROSS JOIN unnest(r.setconfig) c \
               WHERE lower(split_part(c, '=', 1)) = lower(s.name) \
                 AND r.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
                 AND r.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user)))",
        names.join(", ")
    );
    for row in reader.rows(&server).await? {
        let [Some(name), Some(value), built_in] = row.as_slice() else { continue };
        let built_in = built_in.as_deref() == Some("t");
        found.server.insert(name.clone(), (value.clone(), built_in));
    }
    let stored = "SELECT coalesce(r.rolname::text, ''), s.setdatabase <> 0, \
                         lower(split_part(c, '=', 1)), substr(c, strpos(c, '=') + 1) \
                  FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c \
                  LEFT JOIN pg_roles r ON r.oid = s.setrole \
                  WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
                    AND (s.setrole = 0 OR r.rolname IS NOT NULL) \
                    AND (s.setrole = 0 OR r.rolname <> session_user)";
    for row in reader.rows(stored).await? {
        let [Some(role), Some(in_database), Some(name), Some(value)] = row.as_slice() else {
            continue;
        };
        match role.as_str() {
            "" => found.of_database.insert(name.clone(), value.clone()),
            role => {
                let key = (role.to_owned(), in_database == "t", name.clone());
                found.of_roles.insert(key, value.clone())
            }
        };
    }
    let database = "SELECT d.datname, shobj_description(d.oid, 'pg_database'), d.datallowconn, \
                           d.datconnlimit \
                    FROM pg_database d WHERE d.datname = current_database()";
    for row in reader.rows(database).await? {
        let [Some(name), comment, allows, limit] = row.as_slice() else { continue };
        found.database.clone_from(name);
        found.is_closed = allows.as_deref() != Some("t")
            || comment.as_ref().is_some_and(|text| text.contains(CLAIM));
        found.comment.clone_from(comment);
        found.connections = limit.as_ref().and_then(|text| text.parse().ok()).unwrap_or(-1);
    }
    let privileges = "SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END, \
                             string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) \
                      FROM pg_database d \
                      CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x \
                      WHERE d.datname = current_database() AND x.grantee NOT IN (d.datdba, 10) \
                        AND x.grantee <> coalesce((SELECT oid FROM pg_roles WHERE rolname = session_user), 0) \
                      GROUP BY x.grantee";
    for row in reader.rows(privileges).await? {
        let [Some(grantee), Some(privileges)] = row.as_slice() else { continue };
        found.privileges.insert(grantee.clone(), privileges.clone());
    }
    Ok(found)
}

/// Whether findings have values of an application's own settings in them: they may be secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Values {
    /// To be executed, never to be shown.
    All,
    /// To be shown.
    Public,
}

/// An application's own setting; the server knows nothing of its kind.
fn is_own(name: &str) -> bool {
    name.contains('.')
}

/// Of two connection limits that differ; below zero is none. A tighter one on the target refuses sessions
/// that the source takes.
pub(super) fn of_limits(source: i64, target: i64) -> Severity {
    match target >= 0 && (source < 0 || target < source) {
        true => Severity::Fail,
        false => Severity::Warn,
    }
}

/// `sides`: source and target.
pub(in super::super) fn compare(
    [source, target]: [&Settings; 2],
    [from, to]: [Side; 2],
    values_for: Values,
) -> Vec<ObjectFinding> {
    let mut findings = Vec::new();
    let mut find = |severity, kind: &str, object: String, what: String, fix: String| {
        let (kind, fix) = (kind.to_owned(), Some(format!("on {to}: {fix}")));
        findings.push(ObjectFinding { severity, kind, object, what, fix });
    };
    let database = quote_ident(&target.database);
    let severity_of = |name: &str| match CHANGE_RESULTS.contains(&name) || is_own(name) {
        true => Severity::Fail,
        false => Severity::Warn,
    };
    let is_of_fence = |name: &str| name == CLOSED_BY && (source.is_closed || target.is_closed);
    let is_hidden = |name: &str| values_for == Values::Public && is_own(name);
    let says = |name: &str, value: Option<&str>| match value {
        Some(_) if is_hidden(name) => "a value of its own".to_owned(),
        value => value.map_or("not set".to_owned(), literal),
    };
    let written = |name: &str, value: &str| match is_hidden(name) {
        true => format!("'..' (its value on {from})"),
        false => value_sql(name, value),
    };
    let names: BTreeSet<&String> = source
        .of_database
        .keys()
        .chain(target.of_database.keys())
        .chain(source.server.keys().filter(|name| target.server.contains_key(*name)))
        .collect();
    for name in names {
        let (here, there) = (source.in_force(name), target.in_force(name));
        let values = [here, there].map(|one| one.map(|(value, _)| plain(name, value)));
        // Versions have other values built in: whoever sets none has taken them as they are.
        let is_default = here.is_none_or(|(_, own)| own) && there.is_none_or(|(_, own)| own);
        if values[0] == values[1] || is_default || is_of_fence(name) {
            continue;
        }
        let is_set = source.of_database.contains_key(name) || target.of_database.contains_key(name);
        let kind = if is_set { "database setting" } else { "server setting" };
        let fix = match here {
            Some((value, _)) => {
                format!("ALTER DATABASE {database} SET {name} = {}", written(name, value))
            }
            None => format!("ALTER DATABASE {database} RESET {name}"),
        };
        let what =
            format!("{} on {from}, {} on {to}", says(name, values[0]), says(name, values[1]));
        find(severity_of(name), kind, name.clone(), what, fix);
    }
    let names: BTreeSet<_> = source.of_roles.keys().chain(target.of_roles.keys()).collect();
    for key in names {
        let (role, in_database, name) = key;
        let values = [source, target].map(|side| side.of_roles.get(key).map(String::as_str));
        if values[0].map(|value| plain(name, value)) == values[1].map(|value| plain(name, value)) {
            continue;
        }
        let role = quote_ident(role);
        let within = match in_database {
            true => format!(" IN DATABASE {database}"),
            false => String::new(),
        };
        let fix = match values[0] {
            Some(value) => {
                format!("ALTER ROLE {role}{within} SET {name} = {}", written(name, value))
            }
            None => format!("ALTER ROLE {role}{within} RESET {name}"),
        };
        let place = if *in_database { " in this database" } else { "" };
        let what =
            format!("{} on {from}, {} on {to}", says(name, values[0]), says(name, values[1]));
        find(severity_of(name), "role setting", format!("{role}{place}: {name}"), what, fix);
    }
    if source.connections != target.connections {
        let [one, other] = [source, target].map(|side| side.connections);
        let what = format!("connection limit: {one} on {from}, {other} on {to}");
        let fix = format!("ALTER DATABASE {database} WITH CONNECTION LIMIT {one}");
        let object = format!("connection limit of {database}");
        find(of_limits(one, other), "database setting", object, what, fix);
    }
    if !source.is_closed && !target.is_closed {
        let grantees: BTreeSet<_> =
            source.privileges.keys().chain(target.privileges.keys()).collect();
        for grantee in grantees {
            let values = [source, target].map(|side| side.privileges.get(grantee));
            if values[0] == values[1] {
                continue;
            }
            let revoke = format!("REVOKE ALL ON DATABASE {database} FROM {grantee}");
            let fix = match values[0] {
                Some(all) => format!("{revoke}; GRANT {all} ON DATABASE {database} TO {grantee}"),
                None => revoke,
            };
            let of = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".into());
            let what = format!("{} on {from}, {} on {to}", of(values[0]), of(values[1]));
            find(Severity::Fail, "database privilege", format!("of {grantee}"), what, fix);
        }
        if source.comment != target.comment {
            let text = source.comment.as_deref().map_or("NULL".to_owned(), literal);
            let what = format!("{to}'s is not {from}'s");
            let fix = format!("COMMENT ON DATABASE {database} IS {text}");
            find(Severity::Warn, "comment", format!("of database {database}"), what, fix);
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 2] = [Side::Blue, Side::Green];

    fn settings(server: &[(&str, &str, bool)], of_database: &[(&str, &str)]) -> Settings {
        let server = server.iter().map(|&(n, v, b)| (n.to_owned(), (v.to_owned(), b))).collect();
        let of_database = of_database.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        let database = "shop".to_owned();
        Settings { database, server, of_database, connections: -1, ..Settings::default() }
    }

    #[test]
    fn what_is_in_force_counts_wherever_it_was_set() {
        let blue = settings(&[("timezone", "Asia/Tokyo", false)], &[]);
        let green = settings(&[("timezone", "GMT", true)], &[("timezone", "Asia/Tokyo")]);
        assert_eq!(compare([&blue, &green], SIDES, Values::Public), []);
        let green = settings(&[("timezone", "GMT", true)], &[]);
        let found = compare([&blue, &green], SIDES, Values::Public);
        assert_eq!(found[0].severity, Severity::Fail);
        let fix = r#"on green: ALTER DATABASE "shop" SET timezone = 'Asia/Tokyo'"#;
        assert_eq!(found[0].fix.as_deref(), Some(fix));
    }

    #[test]
    fn what_versions_have_built_in_is_no_difference() {
        let blue = settings(&[("extra_float_digits", "0", true)], &[]);
        let green = settings(&[("extra_float_digits", "1", true)], &[]);
        assert_eq!(compare([&blue, &green], SIDES, Values::Public), []);
        let utc = |zone| settings(&[("timezone", zone, false)], &[]);
        assert_eq!(compare([&utc("Etc/UTC"), &utc("UTC")], SIDES, Values::Public), []);
    }

    #[test]
    fn only_a_tighter_connection_limit_refuses() {
        let limited = |connections| Settings { connections, ..settings(&[], &[]) };
        let severity = |one, other| {
            let found = compare([&limited(one), &limited(other)], SIDES, Values::Public);
            found.first().map(|found| found.severity)
        };
        assert_eq!(severity(-1, -1), None);
        assert_eq!(severity(-1, 10), Some(Severity::Fail));
        assert_eq!(severity(20, 10), Some(Severity::Fail));
        assert_eq!(severity(10, 20), Some(Severity::Warn));
        assert_eq!(severity(10, -1), Some(Severity::Warn));
    }

    #[test]
    fn a_list_is_written_as_a_list() {
        let blue = settings(&[], &[("search_path", "\"$user\", app"), ("random_page_cost", "1.1")]);
        let found = compare([&blue, &settings(&[], &[])], SIDES, Values::Public);
        assert_eq!(
            found.iter().map(|one| one.severity).collect::<Vec<_>>(),
            [Severity::Warn, Severity::Fail]
        );
        let fix = r#"on green: ALTER DATABASE "shop" SET search_path = "$user", app"#;
        assert_eq!(found[1].fix.as_deref(), Some(fix));
    }

    #[test]
    fn the_value_of_an_applications_own_setting_is_not_shown() {
        let blue = settings(&[], &[("app.secret", "hunter2")]);
        let shown = format!("{:?}", compare([&blue, &settings(&[], &[])], SIDES, Values::Public));
        assert!(shown.contains("app.secret") && !shown.contains("hunter2"), "{shown}");
        let executed = compare([&blue, &settings(&[], &[])], SIDES, Values::All);
        assert!(executed[0].fix.as_ref().unwrap().ends_with("SET app.secret = 'hunter2'"));
    }
}
