//! What on green would act by itself.

use super::super::finding::{Finding, Fix, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;
use super::tables::quoted;
use decoders::mysql::catalog::TableInfo;
use decoders::mysql::server::identifier;

pub(super) fn evaluate(request: &BinlogCheckRequest, green: &SideFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(triggers(request, green));
    findings.extend(events(green));
    if let Ok(variables) = &green.variables
        && (variables.is_on("read_only") || variables.is_on("super_read_only"))
    {
        let statements = match green.server.is_mariadb() {
            true => vec!["SET GLOBAL read_only = OFF".to_owned()],
            false => vec!["SET PERSIST super_read_only = OFF, PERSIST read_only = OFF".to_owned()],
        };
        findings.push(
            Finding::blocker("green-read-only", Side::Green, "green takes no writes")
                .evidence("read_only = ON")
                .fix(Fix::sql(Side::Green, statements)),
        );
    }
    findings
}

/// A green whose database was dropped while our notes of its copy stayed.
pub(crate) const LOST: &str = "databases of blue that were copied are not on green any more, where _cutover still says that they \
     are complete";
/// What makes the copy begin anew.
pub(crate) const LOST_REMEDY: &str = "restore them, or copy anew: replicator teardown --yes, then replicator run. Blue is not touched by it";

/// What is noted as copied, and gone with its database.
pub(super) fn lost(blue: &SideFacts, green: &SideFacts) -> Option<Finding> {
    let (tables, lost) = (blue.tables.as_ref().ok()?, green.lost.as_ref().ok()?);
    let of_blue = |database: &&String| tables.iter().any(|table| table.name.schema == **database);
    let lost: Vec<String> = lost.iter().filter(of_blue).map(|name| identifier(name)).collect();
    (!lost.is_empty()).then(|| {
        Finding::blocker("leftovers", Side::Green, LOST)
            .evidence(count(lost.len(), "database"))
            .objects(lost)
            .fix(Fix::advice(LOST_REMEDY))
    })
}

/// Tables of blue's names are on green already, or are missing there.
pub(super) fn existing(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Option<Finding> {
    let (wanted, there) = (blue.tables.as_ref().ok()?, green.tables.as_ref().ok()?);
    let is_there = |table: &&TableInfo| there.iter().any(|other| other.name == table.name);
    if request.schema_exists {
        let missing: Vec<String> =
            wanted.iter().filter(|table| !is_there(table)).map(quoted).collect();
        return Some(match missing.is_empty() {
            true => Finding::ok("tables", Side::Green, "green has all tables"),
            false => Finding::blocker("tables", Side::Green, "green lacks tables")
                .evidence(count(missing.len(), "table"))
                .objects(missing)
                .fix(Fix::advice(
                    "create them, exclude them, or let the schema be copied (schema.mode = 'copy')",
                )),
        });
    }
    let made = green.made.as_ref().ok()?;
    let ours = |table: &&TableInfo| made.contains(&table.name);
    let in_the_way: Vec<String> =
        wanted.iter().filter(is_there).filter(|table| !ours(table)).map(quoted).collect();
    if in_the_way.is_empty() {
        return Some(Finding::ok("green-empty", Side::Green, "no table is in the way on green"));
    }
    let statements = vec![format!("DROP TABLE {}", in_the_way.join(", "))];
    Some(
        Finding::blocker(
            "green-empty",
            Side::Green,
            "tables with blue's names are on green and were not made by us",
        )
        .evidence(count(in_the_way.len(), "table"))
        .objects(in_the_way)
        .fix(Fix::Sql {
            side: Side::Green,
            statements,
            then: Some(
                "or exclude them. Make sure first that this is the server to move to: dropped rows are gone"
                    .to_owned(),
            ),
        }),
    )
}

/// The row images have what triggers did on blue.
fn triggers(request: &BinlogCheckRequest, green: &SideFacts) -> Option<Finding> {
    let tables = green.tables.as_ref().ok().filter(|_| request.schema_exists)?;
    let triggers = tables.iter().flat_map(|table| &table.triggers);
    let found: Vec<String> = triggers
        .map(|trigger| {
            format!("{}.{}", identifier(&trigger.name.schema), identifier(&trigger.name.name))
        })
        .collect();
    if found.is_empty() {
        return Some(Finding::ok("triggers", Side::Green, "no trigger would fire on green"));
    }
    let statements = found.iter().map(|name| format!("DROP TRIGGER {name}")).collect();
    Some(
        Finding::blocker(
            "triggers",
            Side::Green,
            "triggers on green would do again what they did on blue",
        )
        .evidence(count(found.len(), "trigger"))
        .objects(found)
        .fix(Fix::Sql {
            side: Side::Green,
            statements,
            then: Some("create them again at the cutover".to_owned()),
        }),
    )
}

fn events(green: &SideFacts) -> Option<Finding> {
    let events = green.events.as_ref().ok()?;
    let scheduler = green.variables.as_ref().ok()?.is_on("event_scheduler");
    if events.is_empty() || !scheduler {
        return Some(Finding::ok("events", Side::Green, "no scheduled event would run on green"));
    }
    let found: Vec<String> = events
        .iter()
        .map(|event| format!("{}.{}", identifier(&event.schema), identifier(&event.name)))
        .collect();
    let statements = found.iter().map(|name| format!("ALTER EVENT {name} DISABLE")).collect();
    Some(
        Finding::blocker(
            "events",
            Side::Green,
            "scheduled events on green write beside the stream",
        )
        .evidence(count(found.len(), "enabled event"))
        .objects(found)
        .fix(Fix::Sql {
            side: Side::Green,
            statements,
            then: Some("enable them again at the cutover".to_owned()),
        }),
    )
}
