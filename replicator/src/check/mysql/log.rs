//! Whether the binlog holds what is needed, and long enough.

use std::time::Duration;

use decoders::mysql::catalog::Variables;
use decoders::mysql::server::Server;

use super::super::finding::{Finding, Fix, Side};
use super::facts::SideFacts;
use super::setting;

/// A move is planned in hours: binlogs that are kept for less may be gone when the copy is done.
const RETENTION_LEAST: Duration = Duration::from_secs(24 * 3600);

pub(super) fn evaluate(side: Side, facts: &SideFacts) -> Vec<Finding> {
    let Ok(variables) = &facts.variables else { return Vec::new() };
    let server = &facts.server;
    if !variables.is_on("log_bin") {
        return vec![
            Finding::blocker(
                "binlog-off",
                side,
                "the server writes no binlog: no change can be read",
            )
            .evidence("log_bin = OFF")
            .fix(Fix::advice("set log_bin and server_id in its configuration and restart it")),
        ];
    }
    let mut findings = vec![
        format(side, server, variables),
        row_image(side, server, variables),
        metadata(side, server, variables),
        gtids(side, server, variables),
        retention(side, server, variables),
    ];
    if variables.is_on("binlog_transaction_compression") {
        findings.push(
            Finding::warning(
                "compressed-transactions",
                side,
                "a compressed transaction is held in memory as a whole, uncompressed, while it is read",
            )
            .evidence("binlog_transaction_compression = ON")
            .fix(setting(server, side, "binlog_transaction_compression", "OFF")),
        );
    }
    if let Ok(surroundings) = &facts.surroundings {
        let updates =
            variables.is_on("log_replica_updates") || variables.is_on("log_slave_updates");
        if surroundings.is_replica && !updates {
            findings.push(
                Finding::blocker(
                    "replica-updates-not-logged",
                    side,
                    "the server is a replica and does not log what it receives",
                )
                .evidence("log_replica_updates (log_slave_updates) = OFF")
                .fix(Fix::advice(
                    "read from its source instead, or set log_slave_updates = ON in its configuration \
                     and restart it",
                )),
            );
        } else if surroundings.is_replica {
            findings.push(Finding::warning(
                "is-replica",
                side,
                "the server is itself a replica: a fence must stop its replication too",
            ));
        }
        if let Some(filter) = &surroundings.binlog_filter {
            findings.push(
                Finding::blocker("binlog-filtered", side, "the server does not log every database")
                    .evidence(filter)
                    .fix(Fix::advice(
                        "remove binlog_do_db and binlog_ignore_db from its configuration and restart it",
                    )),
            );
        }
    }
    findings
}

/// Green needs a binlog too, for the way back; without one the move works.
pub(super) fn evaluate_way_back(green: &SideFacts) -> Vec<Finding> {
    let soften = |mut finding: Finding| {
        if finding.severity == super::Severity::Blocker {
            finding.severity = super::Severity::Warning;
            finding.summary = format!("no way back from green: {}", finding.summary);
        }
        finding
    };
    evaluate(Side::Green, green).into_iter().map(soften).collect()
}

fn format(side: Side, server: &Server, variables: &Variables) -> Finding {
    // A server that can do nothing else has no such variable any more.
    match variables.get("binlog_format").unwrap_or("ROW") {
        "ROW" => Finding::ok("binlog-format", side, "changes are logged as rows"),
        other => Finding::blocker(
            "binlog-format",
            side,
            "changes are logged as statements, which have no values",
        )
        .evidence(format!("binlog_format = {other}"))
        .fix(setting(server, side, "binlog_format", "'ROW'")),
    }
}

fn row_image(side: Side, server: &Server, variables: &Variables) -> Finding {
    match variables.get("binlog_row_image").unwrap_or("FULL") {
        "FULL" => Finding::ok("binlog-row-image", side, "row images are whole"),
        other => Finding::blocker("binlog-row-image", side, "row images lack columns")
            .evidence(format!("binlog_row_image = {other}"))
            .fix(setting(server, side, "binlog_row_image", "'FULL'")),
    }
}

fn metadata(side: Side, server: &Server, variables: &Variables) -> Finding {
    match variables.get("binlog_row_metadata") {
        Some("FULL") => {
            Finding::ok("binlog-row-metadata", side, "the binlog describes its tables itself")
        }
        other => Finding::warning(
            "binlog-row-metadata",
            side,
            "the binlog does not name columns: a table that is altered while its changes are read \
             stops the stream",
        )
        .evidence(format!("binlog_row_metadata = {}", other.unwrap_or("(not there)")))
        .fix(setting(server, side, "binlog_row_metadata", "'FULL'")),
    }
}

fn gtids(side: Side, server: &Server, variables: &Variables) -> Finding {
    if server.is_mariadb() {
        return match variables.is_on("gtid_strict_mode") {
            true => Finding::ok("gtids", side, "transactions are numbered in order"),
            false => Finding::warning(
                "gtids",
                side,
                "GTIDs may go backwards if somebody writes to a replica of this server",
            )
            .evidence("gtid_strict_mode = OFF")
            .fix(setting(server, side, "gtid_strict_mode", "ON")),
        };
    }
    match variables.get("gtid_mode") {
        Some("ON") => Finding::ok("gtids", side, "every transaction has a GTID"),
        other => {
            let steps = [
                "SET PERSIST enforce_gtid_consistency = WARN",
                "SET PERSIST enforce_gtid_consistency = ON",
                "SET PERSIST gtid_mode = OFF_PERMISSIVE",
                "SET PERSIST gtid_mode = ON_PERMISSIVE",
                "SET PERSIST gtid_mode = ON",
            ];
            let fix = Fix::Sql {
                side,
                statements: steps.map(str::to_owned).to_vec(),
                then: Some(
                    "look for warnings in the error log after the first, and wait until \
                     Ongoing_anonymous_transaction_count is 0 before the last"
                        .to_owned(),
                ),
            };
            Finding::blocker("gtids", side, "transactions have no GTIDs: no position would be safe")
                .evidence(format!("gtid_mode = {}", other.unwrap_or("(not there)")))
                .fix(fix)
        }
    }
}

fn retention(side: Side, server: &Server, variables: &Variables) -> Finding {
    let days = || variables.get("expire_logs_days")?.parse::<f64>().ok();
    let seconds = match variables.number("binlog_expire_logs_seconds") {
        Some(seconds) if seconds > 0 => Some(seconds as f64),
        _ => days().filter(|days| *days > 0.0).map(|days| days * 86_400.0),
    };
    let kept = seconds.map(Duration::from_secs_f64);
    let total = variables.number("max_binlog_total_size").filter(|bytes| *bytes > 0);
    match (kept, total) {
        (_, Some(bytes)) => Finding::warning(
            "binlog-retention",
            side,
            "binlogs are removed by size: a busy hour may purge what is still needed",
        )
        .evidence(format!("max_binlog_total_size = {bytes} bytes"))
        .fix(setting(server, side, "max_binlog_total_size", "0")),
        (Some(kept), _) if kept < RETENTION_LEAST => {
            let name = match variables.get("binlog_expire_logs_seconds") {
                Some(_) => ("binlog_expire_logs_seconds", "259200"),
                None => ("expire_logs_days", "3"),
            };
            Finding::warning(
                "binlog-retention",
                side,
                "binlogs are kept for less than a day: a stream that stops for that long can't go on",
            )
            .evidence(format!("binlogs are kept for {} s", kept.as_secs()))
            .fix(setting(server, side, name.0, name.1))
        }
        (Some(kept), _) => {
            let evidence = format!("binlogs are kept for {} h", kept.as_secs() / 3600);
            Finding::ok("binlog-retention", side, "binlogs are kept long enough").evidence(evidence)
        }
        (None, _) => Finding::ok("binlog-retention", side, "binlogs are not removed by age"),
    }
}
