//! Schema changes that a tool is making beside the table that it changes (gh-ost,
//! pt-online-schema-change). One that runs is swapped in at a moment of its own; that must not be in the
//! middle of a cutover, nor behind it: its triggers and its reader would stay with the side that was left.

use decoders::mysql::ghost;
use decoders::mysql::server::literal;
use tokio::time::Instant;

use crate::api::Check;
use crate::ports::PortResult;
use crate::sql::mysql::MysqlSession;

const NAME: &str = "schema-change";
/// Names in one finding.
const NAMED_MAX: usize = 10;

/// Tables with the name of another one in theirs, and triggers of pt-online-schema-change.
fn list_sql(database: Option<&str>) -> String {
    let scope = |column: &str| match database {
        Some(database) => format!("{column} = {}", literal(database)),
        None => format!(
            "{column} NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', \
             '_cutover')"
        ),
    };
    // What the tools put around a name is one letter before it and four behind it.
    format!(
        "SELECT t.table_name AS name, concat(t.table_schema, '.', t.table_name) AS shown \
         FROM information_schema.tables t \
         WHERE t.table_type = 'BASE TABLE' AND left(t.table_name, 1) = '_' AND {} \
           AND EXISTS (SELECT 1 FROM information_schema.tables o \
                       WHERE o.table_schema = t.table_schema AND o.table_type = 'BASE TABLE' \
                         AND o.table_name = substr(t.table_name, 2, char_length(t.table_name) - 5)) \
         UNION ALL SELECT 'pt_osc', concat('trigger ', trigger_schema, '.', trigger_name) \
         FROM information_schema.triggers WHERE trigger_name LIKE 'pt\\_osc\\_%' AND {} ORDER BY 2",
        scope("t.table_schema"),
        scope("trigger_schema")
    )
}

/// What a tool has on `side`.
pub(crate) async fn inspect(
    session: &mut MysqlSession,
    side: &str,
    database: Option<&str>,
    deadline: Instant,
) -> PortResult<Vec<Check>> {
    let listed = session.run(&list_sql(database), deadline).await;
    let listed =
        listed.map_err(|error| error.at(side, "looking for schema changes that run"))?.rows;
    let (mut at_work, mut left) = (Vec::new(), Vec::new());
    for row in &listed {
        let (name, shown) = (row.get("name").unwrap_or_default(), row.get("shown"));
        let found = match ghost(name) {
            Some(ghost) if ghost.is_left => &mut left,
            Some(_) => &mut at_work,
            None if name == "pt_osc" => &mut at_work,
            None => continue,
        };
        found.extend(shown.map(str::to_owned));
    }
    let names =
        |found: Vec<String>| found.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    let mut checks = Vec::new();
    if !at_work.is_empty() {
        checks.push(Check::fail(
            NAME,
            format!(
                "a schema change is being made on {side} by gh-ost or pt-online-schema-change: {}",
                names(at_work)
            ),
            format!(
                "let it end, or break it off and drop what it has made on {side}; a table that only has \
                 such a name: rename it"
            ),
        ));
    }
    if !left.is_empty() {
        checks.push(Check::warn(
            "schema-change-left",
            format!("tables that an earlier schema change has left on {side}: {}", names(left)),
            format!("drop them on {side} if nobody needs them; they move as any other table"),
        ));
    }
    Ok(checks)
}
