//! Statements for what is no row: what is safe to be typed on the target while it is no copy yet. Both
//! sides are asked again, because the findings are a verification's and may be old.

use cutover::verify::ObjectFinding;
use cutover::verify::repair::PlannedObject;
use decoders::mysql::server::identifier;

use super::super::found::Found;
use super::super::plan::{SOURCE, TARGET};
use super::super::side::Reader;
use super::site::Site;
use crate::schema::mysql::{additions, qualified};
use crate::verify::Trouble;

/// Each finding with the statements that put it right; none where a person has to look.
pub(super) async fn planned(
    found: &Found,
    site: &Site,
    findings: &[ObjectFinding],
) -> Result<Vec<PlannedObject>, Trouble> {
    if findings.is_empty() {
        return Ok(Vec::new());
    }
    let (here, there) = tokio::try_join!(site.ends[SOURCE].open(), site.ends[TARGET].open())?;
    let mut sides = [here, there];
    let mut planned = Vec::new();
    for finding in findings {
        let statement = match finding.kind.as_str() {
            "index" | "constraint" => missing(found, &mut sides, &finding.object).await?,
            "auto_increment" => counted(&mut sides[SOURCE], &finding.object).await?,
            "sequence" => sequence(&mut sides[SOURCE], &finding.object).await?,
            _ => None,
        };
        planned.push(PlannedObject {
            kind: finding.kind.clone(),
            object: finding.object.clone(),
            what: finding.what.clone(),
            statements: statement.into_iter().collect(),
        });
    }
    Ok(planned)
}

/// A key or foreign key of a table that only the source has.
async fn missing(
    found: &Found,
    sides: &mut [Reader; 2],
    object: &str,
) -> Result<Option<String>, Trouble> {
    let mut tables = found.benches.iter().map(|bench| qualified(&bench.plan.name));
    let parts = tables.find_map(|table| {
        let name = object.strip_prefix(&table)?.strip_prefix('.')?.to_owned();
        Some((table, name))
    });
    let Some((table, name)) = parts else { return Ok(None) };
    let mut definitions = Vec::new();
    for side in sides {
        let sql = format!("SHOW CREATE TABLE {table}");
        let rows = side.texts("reading a table's definition", &sql).await?;
        let created = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
        let all = created.and_then(|created| additions(&created)).unwrap_or_default();
        let is_it = |(of, _): &(String, String)| identifier(of) == name;
        definitions.push(all.into_iter().find(is_it).map(|(_, definition)| definition));
    }
    Ok(match definitions.as_slice() {
        [Some(definition), None] => Some(format!("ALTER TABLE {table} ADD {definition};")),
        _ => None,
    })
}

/// The target's counter to where the source's is; a cutover does it anyway.
async fn counted(source: &mut Reader, table: &str) -> Result<Option<String>, Trouble> {
    let sql = format!("SHOW CREATE TABLE {table}");
    let rows = source.texts("reading a counter", &sql).await?;
    let created = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
    let next = created.as_deref().and_then(|created| {
        let (_, rest) = created.rsplit_once(" AUTO_INCREMENT=")?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u64>().ok()
    });
    Ok(next.map(|next| format!("ALTER TABLE {table} AUTO_INCREMENT = {next};")))
}

/// The same of a sequence.
async fn sequence(source: &mut Reader, name: &str) -> Result<Option<String>, Trouble> {
    let sql = format!("SELECT CAST(next_not_cached_value AS CHAR) FROM {name}");
    let rows = source.texts("reading a sequence", &sql).await?;
    let next = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    Ok(next.map(|next| format!("ALTER SEQUENCE {name} RESTART {next};")))
}
