//! Definitions, settings, rights and logins of both PostgreSQL databases, compared without reading a
//! row: a precheck of every run, and the last look of its gate.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use cutover::Direction;
use cutover::api::Severity;
use cutover::ports::{PortError, PortResult};
use cutover::verify::ObjectFinding;
use cutover::verify::definitions::Compared;
use cutover::verify::objects::Described;
use decoders::postgres::catalog;
use tokio::time::Instant;

use super::comparing::compare_objects;
use super::definitions::{self, Beyond, Definitions, LeftOut, SequenceValues, Values};
use super::printed;
use super::reader::{Reader, Trouble};
use crate::config::Config;
use crate::controlling::EngineReplication;

/// Nobody waits behind us for longer.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Compares the target of `stream` with its source.
///
/// # Errors
/// A side that can't be read, or time that is up.
pub async fn compare(stream: &EngineReplication, deadline: Instant) -> PortResult<Compared> {
    let began = Instant::now();
    let compared = tokio::time::timeout_at(deadline, compared(stream)).await;
    let late = |_| PortError::new("definitions", "comparing definitions takes too long");
    let compared = compared
        .map_err(late)?
        .map_err(|trouble| PortError::new(trouble.place.clone(), trouble.what.clone()))?;
    tracing::info!(
        objects = compared.count,
        differences = compared.findings.len(),
        duration_ms = began.elapsed().as_millis() as u64,
        "definitions, rights and settings compared"
    );
    Ok(compared)
}

async fn compared(stream: &EngineReplication) -> Result<Compared, Trouble> {
    let (ends, config) = (stream.route.ends.clone(), &stream.route.config);
    let sides = [ends.direction.from(), ends.direction.to()];
    let door = stream.route.door.clone();
    let (source, target) = tokio::try_join!(
        Reader::open(&ends.source, sides[0], &door),
        Reader::open(&ends.target, sides[1], &door),
    )?;
    let on_source = async {
        let noted = stream.route.defines(&stream.shared, source.session()).await;
        noted.map_err(|failure| Trouble {
            is_transient: failure.is_transient(),
            ..Trouble::new(sides[0], failure.what)
        })?;
        Ok((read(&source, config).await?, own(&source).await?))
    };
    let on_target = async {
        let found = read(&target, config).await?;
        let states = definitions::noted_states(&target, config, ends.direction).await?;
        Ok((found, states, own(&target).await?))
    };
    let views = async { Ok(stream.route.views_left().await) };
    let ((one, role), (mut other, states, other_role), views) =
        tokio::try_join!(on_source, on_target, views)?;
    definitions::as_noted(&mut other.0.objects, &states);
    definitions::as_noted(&mut other.1.objects, &states);
    let ours: BTreeSet<String> = role.into_iter().chain(other_role).collect();
    let count = (one.0.objects.len() + one.1.objects.len()) as u64
        + (one.1.settings.count() + one.1.logins.count()) as u64;
    let majors = [&source, &target].map(|reader| reader.session().server_version() / 10_000);
    let same_major = majors[0] == majors[1];
    let mut findings = differences([&one, &other], sides, same_major, &ours);
    let texts =
        [&one, &other].map(|side| side.0.objects.iter().chain(&side.1.objects).collect::<Vec<_>>());
    findings.extend(printed::compare(&target, texts, sides).await?);
    of_plain_indexes(&mut findings, [&one.0, &other.0]);
    match (views, ends.direction) {
        (Ok(left), _) => findings.extend(left),
        // It is no more than told there, and no rollback waits for it.
        (Err(failure), Direction::Back) => findings.push(ObjectFinding {
            severity: Severity::Warn,
            kind: "materialized view".into(),
            object: "of any name".into(),
            what: format!("not looked at: {} ({})", failure.what, failure.place),
            fix: failure.remedy,
        }),
        (Err(failure), Direction::Forward) => {
            return Err(Trouble {
                is_transient: failure.is_transient(),
                ..Trouble::new(failure.place.clone(), failure.what)
            });
        }
    }
    let of_sequences =
        |found: &ObjectFinding| found.kind == "sequence" && found.severity == Severity::Warn;
    findings.retain(|found| !of_sequences(found));
    Ok(Compared { findings, count })
}

/// Everything of one side.
async fn read(reader: &Reader, config: &Config) -> Result<(Definitions, Beyond), Trouble> {
    let settings = format!(
        "SET search_path = pg_catalog; SET quote_all_identifiers = off; \
         SET enable_seqscan = on; SET enable_sort = on; \
         SET lock_timeout = {}",
        LOCK_TIMEOUT.as_millis()
    );
    reader.sets(&settings).await?;
    let filter = &config.tables;
    let mut beyond = definitions::beyond(reader, true, config.schema.owners).await?;
    let left_out = LeftOut::read(reader, filter).await?;
    beyond.objects.retain(|object| !left_out.holds(object));
    let tables = catalog::table_shapes(reader.session(), filter).await;
    let tables = tables.map_err(|error| Trouble::new(reader.side, error.to_string()))?;
    let values = SequenceValues::LeftOut;
    let found = definitions::read(reader, &tables, |_| true, filter, true, values).await?;
    Ok((found, beyond))
}

async fn own(reader: &Reader) -> Result<Option<String>, Trouble> {
    Ok(reader.rows("SELECT quote_ident(session_user)").await?.concat().into_iter().next().flatten())
}

fn differences(
    [one, other]: [&(Definitions, Beyond); 2],
    sides: [cutover::Side; 2],
    same_major: bool,
    ours: &BTreeSet<String>,
) -> Vec<ObjectFinding> {
    // What belongs to something that one side lacks is told there.
    let owned = |beyond: &Beyond| -> BTreeSet<String> {
        let owners = beyond.objects.iter().filter(|object| object.kind == "owner");
        owners.map(|object| object.name.clone()).collect()
    };
    let both: BTreeSet<String> = owned(&one.1).intersection(&owned(&other.1)).cloned().collect();
    // Privileges go with the owner: they are compared once it is the same.
    let owners = |beyond: &Beyond| -> BTreeSet<(String, String)> {
        let owners = beyond.objects.iter().filter(|object| object.kind == "owner");
        let owner = |object: &Described| object.properties.first().map(|one| one.value.clone());
        owners.map(|object| (object.name.clone(), owner(object).unwrap_or_default())).collect()
    };
    let (here, there) = (owners(&one.1), owners(&other.1));
    let differ = here.symmetric_difference(&there).map(|(name, _)| name.clone());
    let moved: BTreeSet<String> = differ.filter(|name| both.contains(name)).collect();
    let columns: Vec<String> = (moved.iter())
        .filter_map(|name| Some(format!("column {}.", name.strip_prefix("table ")?)))
        .collect();
    let is_moved = |on: &str| {
        let is_column = on.starts_with("column ");
        moved.contains(on) || is_column && columns.iter().any(|column| on.starts_with(column))
    };
    let is_told = |object: &&Described| match object.kind.as_str() {
        "owner" => both.contains(&object.name),
        "grant" => {
            let on = object.name.strip_prefix("on ").and_then(|rest| rest.rsplit_once(" to "));
            on.is_some_and(|(on, grantee)| {
                let is_column = on.starts_with("column ");
                (is_column || both.contains(on))
                    && !is_moved(on)
                    && !ours.contains(grantee.trim_matches('"'))
            })
        }
        _ => true,
    };
    let beyond =
        |one: &Beyond| -> Vec<Described> { one.objects.iter().filter(is_told).cloned().collect() };
    let mut findings = compare_objects([&one.0, &other.0], sides, same_major);
    let [here, there] = [beyond(&one.1), beyond(&other.1)];
    findings.extend(cutover::verify::objects::compare([&here, &there], sides, same_major));
    findings.extend(definitions::compare_settings(
        [&one.1.settings, &other.1.settings],
        sides,
        Values::Public,
    ));
    findings.extend(definitions::compare_logins([&one.1.logins, &other.1.logins], sides));
    findings
}

/// Without one that is not unique a query is slower, and its result the same.
fn of_plain_indexes(findings: &mut [ObjectFinding], [one, other]: [&Definitions; 2]) {
    let is_unique = |object: &&Described| {
        object.kind == "index"
            && object.properties.iter().any(|p| p.name == "unique" && p.value == "yes")
    };
    let unique: HashSet<&str> = [one, other]
        .iter()
        .flat_map(|side| side.objects.iter().filter(is_unique))
        .map(|object| object.name.as_str())
        .collect();
    for found in findings.iter_mut().filter(|found| found.kind == "index") {
        if found.severity == Severity::Fail && !unique.contains(found.object.as_str()) {
            found.severity = Severity::Warn;
        }
    }
}
