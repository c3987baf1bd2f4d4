//! What no dump has in it, taken over when the rows are there: settings of the database and of roles in
//! it, its privileges and comment, and publications.
//!
//! What can't be taken over does not stop the copy: every run compares the same things again
//! ([`super::precheck`]) and names what is missing.

use cutover::verify::ObjectFinding;
use cutover::verify::objects;

use super::definitions::{self, Beyond, Values};
use super::reader::{Reader, Trouble};
use crate::door::Door;
use crate::pipeline::Ends;

/// Settings that would change what our own sessions on the target do: they are for the flip.
const NOT_YET: [&str; 4] = [
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "session_replication_role",
];

/// What came over and what did not.
#[derive(Debug, Default)]
pub struct Carried {
    /// So many.
    pub count: u64,
    /// Which did not, and why.
    pub refused: Vec<String>,
}

/// From the source to the target. `is_whole`: all of the database moves, its publications, too.
///
/// # Errors
/// A side that can't be read.
pub async fn carry(ends: &Ends, door: &Door, is_whole: bool) -> Result<Carried, Trouble> {
    let sides = [ends.direction.from(), ends.direction.to()];
    let (source, target) = tokio::try_join!(
        Reader::open(&ends.source, sides[0], door),
        Reader::open(&ends.target, sides[1], door),
    )?;
    for reader in [&source, &target] {
        reader.sets("SET search_path = pg_catalog; SET enable_seqscan = on").await?;
    }
    let (here, there) = tokio::try_join!(
        definitions::beyond(&source, is_whole, true),
        definitions::beyond(&target, is_whole, true),
    )?;
    let mut found =
        definitions::compare_settings([&here.settings, &there.settings], sides, Values::All);
    let publications = |side: &Beyond| -> Vec<objects::Described> {
        side.objects.iter().filter(|object| object.kind == "publication").cloned().collect()
    };
    let [here, there] = [publications(&here), publications(&there)];
    found.extend(objects::compare([&here, &there], sides, true));
    let on_target = format!("on {}: ", sides[1]);
    let mut carried = Carried::default();
    for found in found.iter().filter(|found| is_carried(found)) {
        let Some(sql) = found.fix.as_deref().and_then(|fix| fix.strip_prefix(&on_target)) else {
            continue;
        };
        match target.sets(&format!("BEGIN READ WRITE; {sql}; COMMIT")).await {
            Ok(_) => carried.count += 1,
            Err(trouble) if trouble.is_transient => return Err(trouble),
            Err(trouble) => {
                target.sets("ROLLBACK").await?;
                carried.refused.push(format!("{} {}: {}", found.kind, found.object, trouble.what));
            }
        }
    }
    Ok(carried)
}

/// What the source has. What only the target has was set there by somebody.
fn is_carried(found: &ObjectFinding) -> bool {
    let is_set = found.fix.as_deref().is_some_and(|fix| fix.contains(" SET "));
    match found.kind.as_str() {
        "database setting" => is_set && !NOT_YET.contains(&found.object.as_str()),
        "role setting" => is_set && !NOT_YET.iter().any(|name| found.object.ends_with(name)),
        "database privilege" | "comment" => true,
        "publication" => found.fix.as_deref().is_some_and(|fix| fix.contains("CREATE PUBLICATION")),
        _ => false,
    }
}
