//! Server settings of every connection we open.
//!
//! Values travel as text, so the text must not depend on a role's or a database's settings; and
//! nothing that an administrator set for applications may cut a copy short.

/// Settings every supported server (10 and later) knows, sent with each connection.
///
/// - `search_path` empty: only `pg_catalog`; our SQL qualifies everything else.
/// - `TimeZone` UTC: `timestamptz` text has the same meaning and no skipped hours.
/// - `extra_float_digits` 3: shortest exact text from 12 on, and 17 digits before.
/// - `lc_monetary` C: `money` text carries its two digits on both ends.
/// - `row_security` off: a policy that would hide rows is an error instead of a silent gap.
pub(super) const EVERY_VERSION: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("search_path", ""),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("row_security", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// Settings that came later: (first version as `server_version_num`, name, value).
const LATER: &[(u32, &str, &str)] = &[
    (110_000, "jit", "off"),
    (140_000, "idle_session_timeout", "0"),
    (170_000, "transaction_timeout", "0"),
];

/// `SET` commands for the settings that `version` has and [`EVERY_VERSION`] does not; may be empty.
pub(super) fn later_sql(version: u32) -> String {
    LATER
        .iter()
        .filter(|(since, ..)| version >= *since)
        .map(|(_, name, value)| format!("SET {name} = '{value}';"))
        .collect()
}

/// `SET` commands for everything that `version` has.
pub(super) fn all_sql(version: u32) -> String {
    let every: String =
        EVERY_VERSION.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect();
    every + &later_sql(version)
}

/// `server_version_num` from the reported `server_version`: "15.18 (Debian ..)", "17beta1",
/// "9.6.24". `None` if it does not begin with a number.
pub(super) fn version_number(reported: &str) -> Option<u32> {
    let digits_end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let end = digits_end(reported);
    let major: u32 = reported[..end].parse().ok()?;
    let minor_text = reported[end..].strip_prefix('.').unwrap_or("");
    let minor: u32 = minor_text[..digits_end(minor_text)].parse().unwrap_or(0);
    if major >= 10 {
        return major.checked_mul(10_000)?.checked_add(minor);
    }
    Some(major * 10_000 + minor.checked_mul(100)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_servers_report_them() {
        for (reported, number) in [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("18.0", Some(180_000)),
            ("17beta1", Some(170_000)),
            ("10.23", Some(100_023)),
            ("9.6.24", Some(90_600)),
            ("", None),
            ("devel", None),
            ("99999999999", None),
        ] {
            assert_eq!(version_number(reported), number, "{reported}");
        }
    }

    #[test]
    fn later_settings_only_where_they_exist() {
        assert_eq!(later_sql(100_000), "");
        assert!(later_sql(140_000).contains("idle_session_timeout"));
        assert!(!later_sql(160_000).contains("transaction_timeout"));
        assert!(all_sql(170_000).contains("SET search_path = '';"));
        assert!(all_sql(170_000).contains("SET transaction_timeout = '0';"));
    }
}
