//! Databases in which nobody may write (`ALTER DATABASE .. READ ONLY = 1` of MySQL), whatever his rights.

use std::collections::BTreeSet;

use decoders::mysql::server::identifier;

use super::super::finding::{Finding, Fix, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;

/// The finding about them.
pub const ID: &str = "database-read-only";

/// Where our own tables are.
const OURS: &str = "_cutover";

pub(super) fn evaluate(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Vec<Finding> {
    let Ok(tables) = &blue.tables else { return Vec::new() };
    let mut moved: BTreeSet<&str> = tables.iter().map(|table| table.name.schema.as_str()).collect();
    moved.extend(request.database.as_deref());
    let read_only = |side: &SideFacts| side.read_only.as_ref().ok().cloned().unwrap_or_default();
    let (of_blue, of_green) = (read_only(blue), read_only(green));
    let green_shut = of_green.iter().filter(|name| moved.contains(name.as_str()) || *name == OURS);
    let blue_shut = of_blue.iter().filter(|name| moved.contains(name.as_str()));
    let ours_shut = of_blue.iter().filter(|name| *name == OURS);
    let mut findings = Vec::new();
    findings.extend(found(green_shut, |objects| {
        let what =
            "nobody can write in these databases of green: no stream, and no client after a flip";
        Finding::blocker(ID, Side::Green, what).fix(opened(Side::Green, objects))
    }));
    findings.extend(found(ours_shut, |objects| {
        let what = "our own database on blue is read-only: no marker can be written";
        Finding::blocker(ID, Side::Blue, what).fix(opened(Side::Blue, objects))
    }));
    findings.extend(found(blue_shut, |objects| {
        let what = "nobody can write in these databases of blue; on green clients could";
        Finding::warning(ID, Side::Blue, what).fix(opened(Side::Blue, objects))
    }));
    findings
}

fn found<'a>(
    names: impl Iterator<Item = &'a String>,
    finding: impl FnOnce(&[String]) -> Finding,
) -> Option<Finding> {
    let objects: Vec<String> = names.map(|name| identifier(name)).collect();
    (!objects.is_empty()).then(|| {
        finding(&objects).evidence(count(objects.len(), "read-only database")).objects(objects)
    })
}

fn opened(side: Side, databases: &[String]) -> Fix {
    let statement = |name: &String| format!("ALTER DATABASE {name} READ ONLY = 0");
    Fix::sql(side, databases.iter().map(statement).collect())
}
