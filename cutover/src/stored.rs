//! What runs by itself on MySQL and MariaDB, and no stream carries: triggers and scheduled events. A
//! target that is applied to can't have them, because its server can't keep them quiet; so they would
//! have to be made at the flip, which no run does yet.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::api::Check;
use crate::ports::PortResult;
use crate::sql::mysql::{MysqlSession, literal};

/// Names in one finding.
const NAMED_MAX: usize = 10;

fn list_sql(database: Option<&str>) -> String {
    let scope = |column: &str| match database {
        Some(database) => format!("{column} = {}", literal(database)),
        None => format!(
            "{column} NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', \
             '_cutover')"
        ),
    };
    format!(
        "SELECT concat('trigger ', trigger_schema, '.', trigger_name) AS name \
         FROM information_schema.triggers WHERE {} \
         UNION ALL SELECT concat('event ', event_schema, '.', event_name) \
         FROM information_schema.events WHERE status = 'ENABLED' AND {} ORDER BY 1",
        scope("trigger_schema"),
        scope("event_schema")
    )
}

/// Triggers, and events that run.
async fn list(
    session: &mut MysqlSession,
    place: &str,
    database: Option<&str>,
    deadline: Instant,
) -> PortResult<BTreeSet<String>> {
    let rows = session.run(&list_sql(database), deadline).await;
    let rows = rows.map_err(|error| error.at(place, "listing triggers and events"))?.rows;
    Ok(rows.iter().filter_map(|row| row.get("name").map(str::to_owned)).collect())
}

/// Whether the target has all that runs by itself on the source.
pub(crate) async fn inspect(
    (source, from): (&mut MysqlSession, &str),
    (target, to): (&mut MysqlSession, &str),
    database: Option<&str>,
    deadline: Instant,
) -> PortResult<Option<Check>> {
    let wanted = list(source, from, database, deadline).await?;
    let there = list(target, to, database, deadline).await?;
    let missing: Vec<_> = wanted.difference(&there).cloned().collect();
    Ok((!missing.is_empty()).then(|| {
        let named: Vec<_> = missing.iter().take(NAMED_MAX).cloned().collect();
        Check::fail(
            "stored-missing",
            format!(
                "{to} lacks {} triggers and enabled events of {from}, and no run makes them: {}",
                missing.len(),
                named.join(", ")
            ),
            format!(
                "if the application can do without them for so long: drop the triggers and disable the \
                 events on {from}, and make them on {to} once it serves for good"
            ),
        )
    }))
}
