//! The preflight for MySQL and MariaDB: the same findings and the same report as for PostgreSQL.
//!
//! `facts` asks both servers; the other modules judge with pure functions. A question that could not
//! be answered is a finding of its own.

mod both;
mod columns;
mod facts;
mod log;
pub(crate) mod logins;
mod own;
pub(crate) mod read_only;
mod rights;
pub(crate) mod row_events;
pub(crate) mod settings;
mod stored;
mod tables;
mod target;

use std::collections::BTreeSet;

use decoders::mysql::server::{Server, ServerUrl};
use decoders::postgres::catalog::TableFilter;

use super::finding::{Finding, Fix, Severity, Side};
use super::judge::accept;
use super::report::Report;
use crate::config::{Config, DdlMode, RowEventsMode};
use crate::schema::SchemaMode;

pub use both::DEFAULT_COLLATIONS;
pub use facts::{Facts, SideFacts, gather};
pub(crate) use target::{LOST, LOST_REMEDY};

/// The move that is to be checked.
#[derive(Clone, Debug, Default)]
pub struct BinlogCheckRequest {
    /// Only this database; all of them without it.
    pub database: Option<String>,
    /// Tables that take part.
    pub filter: TableFilter,
    /// Green has the schema already: triggers, events and missing tables of it matter.
    pub schema_exists: bool,
    /// The identities that the sidecar will have as a replica.
    pub server_ids: Vec<u32>,
    /// Rows may go as row events.
    pub row_events: bool,
    /// Blockers that the operator goes on without, by name; only acceptable ones may be named.
    pub accept: BTreeSet<String>,
    /// Schema changes are repeated where that is safe.
    pub repeats_definitions: bool,
}

impl BinlogCheckRequest {
    /// Of a configured pipeline.
    pub fn of(config: &Config, blue: &ServerUrl, green: &ServerUrl) -> Self {
        Self {
            database: blue.database().or(green.database()).map(str::to_owned),
            filter: config.tables.clone(),
            schema_exists: config.schema.mode == SchemaMode::Existing,
            server_ids: Vec::new(),
            row_events: config.apply.row_events == RowEventsMode::Auto,
            accept: config.check.accept.clone(),
            repeats_definitions: config.apply.ddl == DdlMode::Apply,
        }
    }
}

/// Reasons not to flip that may be accepted, by name: [`crate::pipeline::mysql`] compares them.
const AT_THE_FLIP: [&str; 3] = [logins::ID[0], settings::ID[0], "definitions"];

/// Asks both servers and judges what they say. Changes nothing.
pub async fn check(request: &BinlogCheckRequest, blue: &ServerUrl, green: &ServerUrl) -> Report {
    judge(request, &gather(request, blue, green).await)
}

/// Judges all facts. Pure: the same facts give the same report.
pub fn judge(request: &BinlogCheckRequest, facts: &Facts) -> Report {
    let mut findings = Vec::new();
    for (side, one) in [(Side::Blue, &facts.blue), (Side::Green, &facts.green)] {
        match one {
            Ok(one) => {
                findings.extend(failed(side, one));
                findings.extend(own::evaluate(side, one));
            }
            Err(error) => findings.push(unreachable(side, error)),
        }
    }
    if let Ok(blue) = &facts.blue {
        findings.extend(log::evaluate(Side::Blue, blue));
        findings.extend(rights::evaluate_blue(request, blue));
        findings.extend(tables::evaluate(request, blue));
    }
    if let Ok(green) = &facts.green {
        findings.extend(log::evaluate_way_back(green));
        findings.extend(rights::evaluate_green(request, green));
        findings.extend(target::evaluate(request, green));
    }
    if let (Ok(blue), Ok(green)) = (&facts.blue, &facts.green) {
        findings.extend(both::evaluate(request, blue, green));
        findings.extend(columns::evaluate(request, blue, green));
        findings.extend(row_events::evaluate(request, blue, green));
        findings.extend(stored::evaluate(request, blue, green));
        findings.extend(read_only::evaluate(request, blue, green));
        findings.extend(logins::evaluate(request, blue, green));
        findings.extend(settings::evaluate(blue, green));
        findings.extend(target::existing(request, blue, green));
        findings.extend(target::lost(blue, green));
    }
    // What a person has accepted for the flip is no blocker here.
    let here = |name: &&String| !AT_THE_FLIP.contains(&name.as_str());
    let accepted = request.accept.iter().filter(here).cloned().collect();
    let refused = accept(&accepted, &mut findings);
    findings.extend(refused);
    let describe = |side: &Result<Box<SideFacts>, _>| match side {
        Err(_) => "not reached".to_owned(),
        Ok(facts) => facts.server.to_string(),
    };
    Report::new(describe(&facts.blue), describe(&facts.green), findings)
}

fn unreachable(side: Side, error: &decoders::SourceError) -> Finding {
    let fix = error.remedy.clone().unwrap_or_else(|| "start the server, or correct the URL".into());
    Finding::blocker("unreachable", side, format!("{side} can't be reached"))
        .evidence(error.message.clone())
        .fix(Fix::advice(fix))
}

/// A finding for each question that had no answer.
fn failed(side: Side, facts: &SideFacts) -> Vec<Finding> {
    fn one<T>(side: Side, severity: Severity, probe: &facts::Probe<T>) -> Option<Finding> {
        let error = probe.as_ref().err()?;
        let summary = format!("{} could not be found out", error.what);
        let finding = match severity {
            Severity::Blocker => Finding::blocker("probe-failed", side, summary),
            _ => Finding::warning("probe-failed", side, summary),
        };
        let advice = "if a right is missing, grant it and check again";
        Some(finding.evidence(&error.reason).fix(Fix::advice(advice)))
    }
    let all = [
        one(side, Severity::Blocker, &facts.variables),
        one(side, Severity::Blocker, &facts.rights),
        one(side, Severity::Blocker, &facts.tables),
        one(side, Severity::Warning, &facts.events),
        one(side, Severity::Warning, &facts.collations),
        one(side, Severity::Warning, &facts.surroundings),
        one(side, Severity::Warning, &facts.stored),
        one(side, Severity::Warning, &facts.logins),
        one(side, Severity::Warning, &facts.own),
        (side == Side::Green).then(|| one(side, Severity::Warning, &facts.accounts)).flatten(),
        one(side, Severity::Warning, &facts.read_only),
        (side == Side::Green).then(|| one(side, Severity::Blocker, &facts.made)).flatten(),
        (side == Side::Green).then(|| one(side, Severity::Warning, &facts.lost)).flatten(),
        (side == Side::Blue).then(|| one(side, Severity::Warning, &facts.prepared)).flatten(),
    ];
    all.into_iter().flatten().collect()
}

/// A global setting that takes effect at once for new sessions; kept over restarts where the server
/// can do that.
fn setting(server: &Server, side: Side, name: &str, value: &str) -> Fix {
    let (verb, then) = match server.is_mariadb() {
        true => (
            "SET GLOBAL",
            "set it in the configuration file too, for the next restart; sessions keep the old value",
        ),
        false => (
            "SET PERSIST",
            "sessions that are open keep the old value: let the application reconnect",
        ),
    };
    let statements = vec![format!("{verb} {name} = {value}")];
    Fix::Sql { side, statements, then: Some(then.to_owned()) }
}
