//! What of that differs, and what a difference means.

use std::collections::BTreeSet;

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;
use cutover::verify::objects;
use decoders::mysql::server::Server;

use super::{Counter, DATABASE_COLLATION, Definitions, READ_ONLY, STATUS};
use crate::verify::mysql::table_options;

/// Whether the flip brings it.
fn is_late(finding: &ObjectFinding, target: &Definitions) -> bool {
    let place = (finding.kind.clone(), finding.object.clone());
    let begins = |name: &&str| finding.what.starts_with(*name);
    let may_be = finding.kind == "trigger" || [STATUS, DATABASE_COLLATION].iter().any(begins);
    may_be && target.waiting.contains(&place)
}

fn differing(
    [source, target]: &[Definitions; 2],
    sides: [Side; 2],
    servers: [&Server; 2],
) -> Vec<ObjectFinding> {
    let release = |server: &Server| (server.flavor, server.number.0, server.number.1);
    let same_release = release(servers[0]) == release(servers[1]);
    let mut found = objects::compare([&source.objects, &target.objects], sides, same_release);
    for finding in &mut found {
        // Equal would mean that nobody can write on either side, and a target has to be written to.
        if finding.kind == "database" && finding.what.starts_with(&format!("{READ_ONLY}: yes")) {
            let ([from, to], name) = (sides, &finding.object);
            finding.fix = Some(format!(
                "on {from}: ALTER DATABASE {name} READ ONLY = 0, and again after the flip on {to}: \
                 ALTER DATABASE {name} READ ONLY = 1"
            ));
        }
    }
    let tables = |of: &Definitions| -> BTreeSet<String> {
        let tables = of.objects.iter().filter(|object| object.kind == "table");
        tables.map(|table| table.name.clone()).collect()
    };
    let (here, there) = (tables(source), tables(target));
    let on_both = here.intersection(&there).map(String::as_str).collect();
    let options = [&source.options, &target.options];
    let unread: Vec<_> = source.unread.iter().chain(&target.unread).cloned().collect();
    // What one side does not show is no difference.
    let left_out = if unread.is_empty() { None } else { Some(table_options::GROWTH) };
    found.extend(table_options::compare(options, &on_both, left_out, sides));
    found.extend(unread);
    found
}

/// The same as [`compare`] finds, but for counters and what runs by itself: both are the flip's. It takes nothing
/// away, so what runs by itself and is on the target alone is told.
pub(in crate::verify::mysql) fn compare_objects(
    both: &[Definitions; 2],
    sides: [Side; 2],
    servers: [&Server; 2],
) -> Vec<ObjectFinding> {
    let runs_by_itself = |kind: &str| matches!(kind, "trigger" | "event");
    let of_source: BTreeSet<(&str, &str)> = (both[0].objects.iter())
        .filter(|one| runs_by_itself(&one.kind))
        .map(|one| (one.kind.as_str(), one.name.as_str()))
        .collect();
    let mut found = differing(both, sides, servers);
    found.retain_mut(|finding| match finding.kind.as_str() {
        kind if of_source.contains(&(kind, finding.object.as_str())) => false,
        // Nobody's statement depends on it.
        "event" => {
            finding.severity = Severity::Warn;
            true
        }
        _ => true,
    });
    found
}

/// Everything that is not the same. `servers` tell whether texts have to be.
pub(in crate::verify::mysql) fn compare(
    both: &[Definitions; 2],
    sides: [Side; 2],
    servers: [&Server; 2],
) -> Vec<ObjectFinding> {
    let [source, target] = both;
    let mut found = differing(both, sides, servers);
    for finding in &mut found {
        if is_late(finding, target) {
            finding.severity = Severity::Warn;
            finding.what.push_str("; the flip brings it");
        }
    }
    for here in &source.counters {
        let is_it = |other: &&Counter| other.kind == here.kind && other.name == here.name;
        let Some(there) = target.counters.iter().find(is_it) else { continue };
        let both = [here, there].map(|counter| (counter.next, false));
        let behind = objects::compare_sequence(&here.name, here.increment, both, sides);
        found.extend(behind.map(|finding| ObjectFinding { kind: here.kind.into(), ..finding }));
    }
    found
}
