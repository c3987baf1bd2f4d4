//! Family: room for the log that the slot keeps and for the data.

use std::time::Duration;

use decoders::postgres::catalog::{ServerInfo, TableInfo};

use super::facts::WalFacts;
use super::finding::{Finding, Fix, Side};

/// Bytes per second that a copy is assumed to move at least, for estimates only.
const COPY_BYTES_PER_S: u64 = 20 << 20;

/// The slot has to hold for this long whatever the size: a night without a person.
const COMFORT: Duration = Duration::from_secs(6 * 3600);

/// Less than this is no time to react in.
const SHORTEST: Duration = Duration::from_secs(15 * 60);

/// A limit below this is gone in one batch job, however quiet the sample was.
const COMFORT_BYTES: i64 = 1 << 30;

/// Log of a night that no disk of a database server notices.
const UNREMARKABLE_BYTES: f64 = (10_u64 << 30) as f64;

pub(super) fn evaluate(server: &ServerInfo, wal: &WalFacts, tables: &[TableInfo]) -> Vec<Finding> {
    let bytes: u64 = tables.iter().map(|table| u64::try_from(table.bytes).unwrap_or(0)).sum();
    let mut findings = vec![
        Finding::ok("data-size", Side::Blue, "green needs room for this and its indexes").evidence(
            format!(
                "{} in {} tables; the database takes {}",
                size(bytes as f64),
                tables.len(),
                server.database_bytes.map_or_else(|| "(hidden)".into(), |b| size(b as f64))
            ),
        ),
        wal_limit(server, wal, Duration::from_secs(bytes / COPY_BYTES_PER_S)),
    ];
    findings.extend(archiver(wal));
    findings
}

fn wal_limit(server: &ServerInfo, wal: &WalFacts, copy: Duration) -> Finding {
    let Some(rate) = wal.rate() else {
        return Finding::warning("wal-rate", Side::Blue, "the log's rate could not be measured")
            .evidence("this server is a standby, or the clock did not move");
    };
    let mut evidence = match wal.average {
        Some(_) => format!("{}/s on average", size(rate)),
        None => format!("{}/s, measured for {} ms", size(rate), wal.measured_ms),
    };
    if let Some(bytes) = wal.directory_bytes {
        evidence.push_str(&format!("; pg_wal holds {} now", size(bytes as f64)));
    }
    let limit = server.bytes("max_slot_wal_keep_size").unwrap_or(-1);
    if limit < 0 {
        let per_day = size(rate * 86_400.0);
        let kept = rate * COMFORT.max(copy.saturating_mul(4)).as_secs_f64();
        let database = server.database_bytes.unwrap_or(0) as f64;
        if kept < UNREMARKABLE_BYTES.max(database / 4.0) {
            let summary =
                "blue writes little log: what it keeps while the stream stands still is small";
            return Finding::ok("wal-room", Side::Blue, summary)
                .evidence(format!("{evidence}; {per_day} a day at this rate"));
        }
        let summary = "while the copy runs or the stream stands still, blue keeps its log without a \
                       limit; free disk space can't be seen from here";
        return Finding::warning("wal-room", Side::Blue, summary)
            .evidence(format!("{evidence}; {per_day} a day at this rate"))
            .fix(Fix::advice(
                "watch free space on blue's disk; protect.retained_wal_bytes with \
                 protect.on_wal_limit = \"drop_slot\" makes the replicator give its slot up, on 13 \
                 and newer max_slot_wal_keep_size makes blue do so, before the disk is full (the \
                 copy then starts over)",
            ));
    }
    let lasts = Duration::try_from_secs_f64(limit as f64 / rate.max(1.0)).unwrap_or(Duration::MAX);
    evidence.push_str(&format!(
        "; max_slot_wal_keep_size = {} lasts {} at this rate, the copy may take {}",
        size(limit as f64),
        humantime::format_duration(Duration::from_secs(lasts.as_secs())),
        humantime::format_duration(Duration::from_secs(copy.as_secs().max(1)))
    ));
    let wanted = keep_size_mib(rate, copy, limit, server.database_bytes.unwrap_or(0));
    let raise = Fix::Sql {
        side: Side::Blue,
        statements: vec![
            format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{wanted}MB'"),
            "SELECT pg_reload_conf()".into(),
        ],
        then: Some(format!(
            "see that the disk of blue's log has {} free",
            size(wanted as f64 * (1_u64 << 20) as f64)
        )),
    };
    if lasts < SHORTEST.max(copy) {
        let summary = "blue would drop the slot before the copy is done: the limit on kept log is \
                       too small for the rate of writes";
        Finding::blocker("slot-keep-size", Side::Blue, summary).evidence(evidence).fix(raise)
    } else if lasts < COMFORT.max(copy.saturating_mul(4)) || limit < COMFORT_BYTES {
        let summary = "blue drops the slot, and the copy starts over, if the stream stands still \
                       for long";
        Finding::warning("slot-keep-size", Side::Blue, summary).evidence(evidence).fix(raise)
    } else {
        Finding::ok("slot-keep-size", Side::Blue, "blue keeps enough log for the slot")
            .evidence(evidence)
    }
}

/// A limit that outlasts the copy eight times, or two nights; never none: a disk that is full ends more
/// than the copy. At least twice what it is now, and a tenth of the database.
fn keep_size_mib(rate: f64, copy: Duration, limit: i64, database: i64) -> i64 {
    const MIB: f64 = (1_u64 << 20) as f64;
    let lasting = rate * 2.0 * COMFORT.max(copy.saturating_mul(4)).as_secs_f64();
    let bytes =
        lasting.max(limit as f64 * 2.0).max(database as f64 / 10.0).max(COMFORT_BYTES as f64);
    // Whole GiB are easier to talk about.
    ((bytes / MIB / 1024.0).ceil() * 1024.0) as i64
}

fn archiver(wal: &WalFacts) -> Option<Finding> {
    wal.archiver.failing.then(|| {
        Finding::warning(
            "archiver-failing",
            Side::Blue,
            "blue can't archive its log and keeps all of it; the disk fills up with or without a slot",
        )
        .evidence(format!(
            "{} failures, last at segment {}",
            wal.archiver.failures,
            wal.archiver.segment.as_deref().unwrap_or("(unknown)")
        ))
        .fix(Fix::advice("repair archive_command or archive_library; see the server's log"))
    })
}

fn size(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use decoders::postgres::catalog::Setting;

    use super::super::finding::Severity;
    use super::*;

    fn limited(mib: i64) -> ServerInfo {
        let mut server = ServerInfo::default();
        let setting = Setting { value: mib.to_string(), unit: Some("MB".into()) };
        server.settings.insert("max_slot_wal_keep_size".into(), setting);
        server
    }

    fn severity(mib: i64, mib_per_s: u64, copy_s: u64) -> Severity {
        let wal =
            WalFacts { bytes: Some(mib_per_s << 20), measured_ms: 1000, ..WalFacts::default() };
        wal_limit(&limited(mib), &wal, Duration::from_secs(copy_s)).severity
    }

    #[test]
    fn the_limit_is_weighed_against_the_rate() {
        assert_eq!(severity(-1, 10, 60), Severity::Warning);
        assert_eq!(severity(1024, 10, 60), Severity::Blocker); // lasts 102 s
        assert_eq!(severity(100_000, 10, 60), Severity::Warning); // lasts 2.8 h
        assert_eq!(severity(1_000_000, 10, 60), Severity::Ok); // lasts 28 h
        assert_eq!(severity(1_000_000, 10, 90_000), Severity::Warning); // the copy takes 25 h
        assert_eq!(severity(1_000_000, 10, 200_000), Severity::Blocker);
        assert_eq!(severity(64, 0, 1), Severity::Warning); // idle now, tiny limit
    }

    #[test]
    fn little_log_is_nothing_to_know_of() {
        assert_eq!(severity(-1, 0, 60), Severity::Ok);
        // 1 MiB/s for six hours is 21 GiB: much for a small database, little for one of 100 GiB.
        assert_eq!(severity(-1, 1, 60), Severity::Warning);
        let server = ServerInfo { database_bytes: Some(100 << 30), ..limited(-1) };
        let wal = WalFacts { bytes: Some(1 << 20), measured_ms: 1000, ..WalFacts::default() };
        assert_eq!(wal_limit(&server, &wal, Duration::from_secs(60)).severity, Severity::Ok);
        // An average of hours says more than one second.
        let burst = WalFacts { bytes: Some(1 << 30), average: Some(1000), ..wal };
        assert_eq!(wal_limit(&limited(-1), &burst, Duration::ZERO).severity, Severity::Ok);
    }

    #[test]
    fn no_limit_is_never_proposed() {
        let wal = WalFacts { bytes: Some(10 << 20), measured_ms: 1000, ..WalFacts::default() };
        let finding = wal_limit(&limited(1024), &wal, Duration::from_secs(60));
        let Some(Fix::Sql { statements, then, .. }) = finding.fix else { panic!("no statements") };
        // 10 MiB/s for twelve hours.
        assert_eq!(statements[0], "ALTER SYSTEM SET max_slot_wal_keep_size = '432128MB'");
        assert_eq!(then.unwrap(), "see that the disk of blue's log has 422.0 GiB free");
    }

    #[test]
    fn a_standby_has_no_rate() {
        let finding = wal_limit(&limited(-1), &WalFacts::default(), Duration::ZERO);
        assert_eq!(finding.id, "wal-rate");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0.0), "0 B");
        assert_eq!(size(1536.0), "1.5 KiB");
        assert_eq!(size(5.0 * 1024.0 * 1024.0 * 1024.0), "5.0 GiB");
    }
}
