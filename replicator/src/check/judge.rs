//! From facts to findings: which family gets which facts.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{self, ServerInfo};

use super::facts::{BlueFacts, Facts, GreenFacts, Probe, SideFacts};
use super::finding::{Finding, Fix, Severity, Side};
use super::report::Report;
use super::request::CheckRequest;
use super::{
    capacity, connection, data, empty_green, existing_schema, identity, indexes, legacy, locale,
    lock_room, powers, privileges, sequences, slots, target, transactions, trust,
};

/// Judges all facts. Pure: the same facts give the same report.
pub(super) fn judge(request: &CheckRequest, facts: &Facts) -> Report {
    let blue = facts.blue.as_deref().ok();
    let green = facts.green.as_deref().ok();
    let mut findings = connection::evaluate(request, facts);
    findings.extend(blue.iter().flat_map(|blue| failed_probes_of_blue(blue)));
    findings.extend(green.iter().flat_map(|green| failed_probes_of_green(green)));
    findings.extend(blue.iter().flat_map(|blue| judge_blue(request, blue)));
    findings.extend(green.iter().flat_map(|green| judge_green(request, green)));
    if let (Some(blue), Some(green)) = (blue, green) {
        findings.extend(judge_both(request, blue, green));
    }
    let refused = accept(&request.accept, &mut findings);
    findings.extend(refused);
    let describe = |common: Option<&SideFacts>| describe(common.map(|common| &common.server));
    Report::new(
        describe(blue.map(|blue| &blue.common)),
        describe(green.map(|green| &green.common)),
        findings,
    )
}

fn describe(server: Option<&Probe<ServerInfo>>) -> String {
    match server {
        None => "not reached".into(),
        Some(Err(_)) => "reached, but it does not say what it is".into(),
        Some(Ok(server)) => format!(
            "PostgreSQL {}, database {}, as {}",
            server.version,
            catalog::quote_ident(&server.database),
            catalog::quote_ident(&server.role.name)
        ),
    }
}

fn judge_blue(request: &CheckRequest, blue: &BlueFacts) -> Vec<Finding> {
    let mut findings = judge_side(request, Side::Blue, &blue.common);
    let common = &blue.common;
    if let Ok(tables) = &common.tables {
        findings.extend(identity::evaluate(tables));
        findings.extend(data::tables(tables));
        if let Ok(server) = &common.server {
            findings.extend(privileges::evaluate_blue(server, tables));
            if let Ok(wal) = &blue.wal {
                findings.extend(capacity::evaluate(server, wal, tables));
            }
            if !request.schema_exists() && !request.resuming {
                findings.extend(lock_room::blue(server, tables));
            }
        }
        if tables.is_empty() {
            findings.push(no_tables(request));
        }
    }
    if let Ok(relations) = &common.relations {
        findings.extend(data::relations(relations, request.refreshes_views));
    }
    if let Ok(large_objects) = &common.large_objects {
        findings.push(data::large_objects(*large_objects));
    }
    if let Ok(extensions) = &common.extensions {
        findings.extend(data::unmovable_extensions(extensions));
        findings.extend(data::special_extensions(extensions));
    }
    if let Ok(subscriptions) = &blue.subscriptions {
        findings.extend(data::subscriptions(subscriptions));
    }
    if let (Ok(sequences), Ok(server)) = (&common.sequences, &common.server) {
        findings.extend(sequences::evaluate_blue(sequences, &server.role.name));
    }
    if let (Ok(invalid), Ok(server)) = (&blue.invalid_indexes, &common.server) {
        findings.push(indexes::invalid(invalid, server.major()));
    }
    if let Ok(activity) = &blue.activity {
        findings.extend(transactions::evaluate(request, activity));
    }
    findings
}

fn no_tables(request: &CheckRequest) -> Finding {
    if request.filter.takes_all() {
        Finding::warning("no-tables", Side::Blue, "blue has no tables: there is nothing to move")
    } else {
        Finding::blocker("no-tables", Side::Blue, "no table of blue matches the filter")
            .evidence(format!(
                "{} include and {} exclude patterns",
                request.filter.include.len(),
                request.filter.exclude.len()
            ))
            .fix(Fix::advice("correct tables.include and tables.exclude; names are case-sensitive"))
    }
}

fn judge_green(request: &CheckRequest, green: &GreenFacts) -> Vec<Finding> {
    let mut findings = judge_side(request, Side::Green, &green.common);
    let common = &green.common;
    if let Ok(server) = &common.server {
        findings.extend(target::settings(server));
    }
    if let Ok(triggers) = &common.event_triggers {
        findings.extend(target::event_triggers(request, triggers));
    }
    if !request.schema_exists()
        && !request.resuming
        && let (Ok(tables), Ok(relations), Ok(sequences), Ok(types), Ok(content)) =
            (&common.tables, &common.relations, &common.sequences, &common.types, &green.content)
    {
        let objects = empty_green::GreenObjects { tables, relations, sequences, types, content };
        findings.push(empty_green::not_empty(&objects));
    }
    findings
}

fn judge_side(request: &CheckRequest, side: Side, common: &SideFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Ok(server), Ok(replication)) = (&common.server, &common.replication) {
        findings.extend(slots::evaluate(request, side, server, replication));
    }
    if let Ok(leftovers) = &common.leftovers {
        findings.extend(slots::leftovers(request, side, leftovers));
    }
    if let Ok(strangers) = &common.strangers {
        findings.push(trust::state_schema(side, strangers));
    }
    if let (Ok(server), Ok(tables), Ok(code)) = (&common.server, &common.tables, &common.code) {
        findings.push(trust::table_code(side, server, tables, code));
    }
    findings
}

fn judge_both(request: &CheckRequest, blue: &BlueFacts, green: &GreenFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let exists = request.schema_exists();
    if let (Ok(one), Ok(other)) = (&blue.common.server, &green.common.server) {
        findings.extend(locale::evaluate(one, other));
        if let Ok(legacy) = &blue.legacy {
            findings.extend(legacy::objects(other.major(), !exists, legacy));
        }
        if let Ok(triggers) = &blue.common.event_triggers
            && !exists
        {
            findings.extend(empty_green::blue_event_triggers(triggers, other));
        }
    }
    if let (Ok(one), Ok(other)) = (&blue.common.extensions, &green.common.extensions) {
        let available = green.available_extensions.as_deref();
        let all_installed = one.iter().all(|e| other.iter().any(|there| there.name == e.name));
        // Without knowing what is on offer only what is installed can be judged; the failed
        // question itself is reported too.
        if available.is_ok() || all_installed {
            let available = available.unwrap_or_default();
            findings.extend(empty_green::extensions(exists, one, other, available));
        }
    }
    if let (Ok(roles), Ok(names)) = (&blue.roles, &green.role_names)
        && !exists
    {
        findings.push(empty_green::roles(request.owners, roles, names));
    }
    let (Ok(tables), Ok(green_tables)) = (&blue.common.tables, &green.common.tables) else {
        return findings;
    };
    if let Ok(server) = &green.common.server {
        if !exists && !request.resuming {
            findings.extend(lock_room::green(server, tables));
            if let (Ok(powers), Ok(one), Ok(other), Ok(roles)) = (
                &green.powers,
                &blue.common.extensions,
                &green.common.extensions,
                &green.role_names,
            ) {
                let extensions = [one.as_slice(), other.as_slice()];
                let owners = request.owners;
                findings
                    .extend(powers::of_schema(owners, server, powers, extensions, tables, roles));
            }
        }
        if let Ok(powers) = &green.powers {
            findings.extend(powers::of_fence(server, powers));
        }
        findings.extend(legacy::tables(server.major(), tables));
        findings.extend(privileges::evaluate_green(request, server, green_tables, tables));
        if let Ok(allowed) = &green.replica_role {
            let acting = if exists { green_tables } else { tables };
            findings.push(target::replica_role(allowed, server, acting));
        }
    }
    findings.extend(target::firing_triggers(request, if exists { green_tables } else { tables }));
    if exists {
        findings.extend(existing_schema::evaluate(request, tables, green_tables));
        if let (Ok(one), Ok(other)) = (&blue.common.types, &green.common.types) {
            findings.extend(existing_schema::types(one, other));
        }
        if let (Ok(one), Ok(other), Ok(server)) =
            (&blue.common.sequences, &green.common.sequences, &green.common.server)
        {
            findings.extend(sequences::evaluate_green(one, other, &server.role.name));
        }
        if let Ok(content) = &green.content
            && !request.resuming
        {
            findings.extend(existing_schema::filled(request, tables, green_tables, content));
        }
    } else {
        if let Ok(names) = &green.schema_names
            && !request.resuming
        {
            findings.extend(empty_green::schemas(tables, names));
        }
        if let Ok(names) = &green.tablespace_names {
            findings.extend(empty_green::tablespaces(request.tablespaces, tables, names));
        }
    }
    findings
}

/// Turns accepted blockers into warnings, and refuses names that accept nothing.
pub(super) fn accept(names: &BTreeSet<String>, findings: &mut [Finding]) -> Option<Finding> {
    let mut refused = Vec::new();
    for name in names {
        let mut known = false;
        for finding in findings.iter_mut().filter(|finding| finding.id == name) {
            known = true;
            if finding.severity != Severity::Blocker {
                continue;
            }
            if finding.acceptable {
                finding.severity = Severity::Warning;
                finding.summary.push_str(" (accepted)");
            } else {
                refused.push(format!("{name} can't be accepted: the move would not work"));
            }
        }
        if !known {
            refused.push(format!("{name} is not the name of a finding"));
        }
    }
    (!refused.is_empty()).then(|| {
        Finding::warning("accept", Side::Here, "acceptances without effect")
            .evidence(refused.join("; "))
    })
}

fn failed<T>(side: Side, severity: Severity, probe: &Probe<T>) -> Option<Finding> {
    let error = probe.as_ref().err()?;
    let summary = format!("{} could not be found out", error.what);
    let finding = match severity {
        Severity::Blocker => Finding::blocker("probe-failed", side, summary),
        _ => Finding::warning("probe-failed", side, summary),
    };
    Some(
        finding.evidence(&error.reason).fix(Fix::advice(
            "see the server's log; if a right is missing, grant it and check again",
        )),
    )
}

fn failed_probes(side: Side, common: &SideFacts) -> Vec<Option<Finding>> {
    use Severity::{Blocker, Warning};
    vec![
        failed(side, Blocker, &common.server),
        failed(side, Blocker, &common.tables),
        failed(side, Blocker, &common.relations),
        failed(side, Blocker, &common.sequences),
        failed(side, Blocker, &common.types),
        failed(side, Blocker, &common.extensions),
        failed(side, Blocker, &common.event_triggers),
        failed(side, Blocker, &common.large_objects),
        failed(side, Blocker, &common.replication),
        failed(side, Blocker, &common.leftovers),
        failed(side, Blocker, &common.strangers),
        failed(side, Warning, &common.code),
    ]
}

fn failed_probes_of_blue(blue: &BlueFacts) -> Vec<Finding> {
    use Severity::{Blocker, Warning};
    let side = Side::Blue;
    let own = vec![
        failed(side, Blocker, &blue.roles),
        failed(side, Warning, &blue.subscriptions),
        failed(side, Blocker, &blue.activity),
        failed(side, Warning, &blue.wal),
        failed(side, Blocker, &blue.legacy),
        failed(side, Warning, &blue.invalid_indexes),
    ];
    failed_probes(side, &blue.common).into_iter().chain(own).flatten().collect()
}

fn failed_probes_of_green(green: &GreenFacts) -> Vec<Finding> {
    use Severity::{Blocker, Warning};
    let side = Side::Green;
    let own = vec![
        failed(side, Blocker, &green.role_names),
        failed(side, Warning, &green.tablespace_names),
        failed(side, Blocker, &green.schema_names),
        failed(side, Warning, &green.available_extensions),
        failed(side, Blocker, &green.replica_role),
        failed(side, Blocker, &green.content),
        failed(side, Warning, &green.powers),
    ];
    failed_probes(side, &green.common).into_iter().chain(own).flatten().collect()
}
