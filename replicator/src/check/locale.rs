//! Family: character sets and collations of the two databases.

use decoders::postgres::catalog::{Locale, ServerInfo};

use super::finding::{Finding, Fix, Side};

pub(super) fn evaluate(blue: &ServerInfo, green: &ServerInfo) -> Vec<Finding> {
    let mut findings = vec![encoding(&blue.locale, &green.locale)];
    findings.extend(collation(&blue.locale, &green.locale));
    for (side, server) in [(Side::Blue, blue), (Side::Green, green)] {
        findings.extend(stale_version(side, &server.locale));
    }
    findings
}

fn encoding(blue: &Locale, green: &Locale) -> Finding {
    let evidence = format!("blue {}, green {}", blue.encoding, green.encoding);
    if blue.encoding == green.encoding && blue.encoding != "SQL_ASCII" {
        return Finding::ok("encoding", Side::Both, "both use the same character set")
            .evidence(evidence);
    }
    if blue.encoding == "SQL_ASCII" {
        // The engine speaks UTF-8 with both ends, and SQL_ASCII bytes are not checked or
        // converted: anything else than UTF-8 would stop the stream (or the copy).
        return Finding::blocker(
            "encoding",
            Side::Both,
            "blue does not know its character set (SQL_ASCII): text that is not UTF-8 stops the move",
        )
        .evidence(evidence)
        .fix(Fix::advice(
            "if all text is valid UTF-8, accept this; else convert the bad values on blue first",
        ))
        .acceptable();
    }
    if green.encoding == "UTF8" {
        let summary = "text is converted to UTF-8 on its way, which every character set allows";
        return Finding::warning("encoding", Side::Both, summary).evidence(evidence);
    }
    Finding::blocker("encoding", Side::Both, "green's character set can't hold every text of blue")
        .evidence(evidence)
        .fix(Fix::advice("make green's database with ENCODING 'UTF8' TEMPLATE template0"))
}

fn collation(blue: &Locale, green: &Locale) -> Option<Finding> {
    let same = blue.provider == green.provider
        && blue.collate == green.collate
        && blue.ctype == green.ctype
        && blue.locale == green.locale;
    if !same {
        return Some(
            Finding::warning(
                "collation",
                Side::Both,
                "the default collations differ: ORDER BY, upper(), and unique indexes over text \
                 with odd characters may behave differently on green",
            )
            .evidence(format!("blue {}; green {}", describe(blue), describe(green)))
            .fix(Fix::advice(
                "make green's database with blue's locale (TEMPLATE template0 LC_COLLATE .. \
                 LC_CTYPE ..) unless the change is wanted",
            )),
        );
    }
    let versions = (&blue.actual_version, &green.actual_version);
    match versions {
        (Some(one), Some(other)) if one != other => Some(
            Finding::warning(
                "collation-version",
                Side::Both,
                "the collation libraries have different versions: some texts sort differently on \
                 green; indexes there are built anew and so are right",
            )
            .evidence(format!("blue {one}, green {other}")),
        ),
        _ => Some(
            Finding::ok("collation", Side::Both, "the default collations are the same")
                .evidence(describe(blue)),
        ),
    }
}

fn describe(locale: &Locale) -> String {
    let own = locale.locale.as_deref().map(|l| format!(" {l}")).unwrap_or_default();
    format!(
        "{}{own}, collate {}, ctype {}",
        if locale.provider.is_empty() { "libc" } else { &locale.provider },
        locale.collate,
        locale.ctype
    )
}

/// The library was updated under the database: its text indexes may be out of order
/// (manual, ALTER DATABASE .. REFRESH COLLATION VERSION).
fn stale_version(side: Side, locale: &Locale) -> Option<Finding> {
    match (&locale.recorded_version, &locale.actual_version) {
        (Some(recorded), Some(actual)) if recorded != actual => Some(
            Finding::warning(
                "collation-stale",
                side,
                "the collation library changed since the database was made: text indexes may be \
                 out of order, and a unique one may hold duplicates",
            )
            .evidence(format!("recorded {recorded}, now {actual}"))
            .fix(Fix::advice(
                "REINDEX what sorts text, then ALTER DATABASE .. REFRESH COLLATION VERSION",
            )),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn with(encoding: &str) -> Locale {
        Locale { encoding: encoding.into(), ..Locale::default() }
    }

    #[test]
    fn only_utf8_holds_everything() {
        let severity = |blue, green| encoding(&with(blue), &with(green)).severity;
        assert_eq!(severity("UTF8", "UTF8"), Severity::Ok);
        assert_eq!(severity("LATIN1", "LATIN1"), Severity::Ok);
        assert_eq!(severity("LATIN1", "UTF8"), Severity::Warning);
        assert_eq!(severity("UTF8", "LATIN1"), Severity::Blocker);
        assert_eq!(severity("SQL_ASCII", "UTF8"), Severity::Blocker);
        assert_eq!(severity("SQL_ASCII", "SQL_ASCII"), Severity::Blocker);
    }

    #[test]
    fn collations_are_compared_by_name_and_by_version() {
        let base = Locale { collate: "C".into(), ctype: "C".into(), ..Locale::default() };
        let id = |blue: &Locale, green: &Locale| {
            collation(blue, green).map(|finding| (finding.id, finding.severity))
        };
        assert_eq!(id(&base, &base), Some(("collation", Severity::Ok)));
        let other = Locale { collate: "de_DE.UTF-8".into(), ..base.clone() };
        assert_eq!(id(&base, &other), Some(("collation", Severity::Warning)));
        let old = Locale { actual_version: Some("2.31".into()), ..base.clone() };
        let new = Locale { actual_version: Some("2.36".into()), ..base };
        assert_eq!(id(&old, &new), Some(("collation-version", Severity::Warning)));
    }

    #[test]
    fn a_changed_library_is_named() {
        let locale = Locale {
            recorded_version: Some("2.31".into()),
            actual_version: Some("2.36".into()),
            ..Locale::default()
        };
        assert!(stale_version(Side::Blue, &locale).is_some());
        assert!(stale_version(Side::Blue, &Locale::default()).is_none());
    }
}
