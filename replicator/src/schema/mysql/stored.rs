//! Routines, views, events and triggers.

use std::collections::BTreeSet;

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, describe, literal};
use decoders::postgres::catalog::TableFilter;
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};

use super::defaults::Defaults;
use super::make::{SchemaCopy, open, qualified};
use super::notes::{Kind, Notes, WAITING};
use super::session::used_for_definitions;
use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;
use crate::backfill::progress::{Phase, ProgressSender, Step, begin};

/// Something that runs, with the session that it was defined in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Definition {
    /// Triggers of one kind on one table fire in this order.
    pub order: u64,
    pub sql_mode: String,
    pub collation: String,
    /// The default of its database at that time; empty where an object keeps none.
    #[serde(default)]
    pub database_collation: String,
    pub time_zone: Option<String>,
    pub statement: String,
    /// A trigger's table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<QualifiedName>,
}

impl SchemaCopy {
    /// Makes routines, views and events, the latter disabled, and notes triggers and enabled events
    /// for the flip ([`Automation`](super::Automation)). Those that are there already are left alone.
    ///
    /// Gives back what somebody should know.
    ///
    /// # Errors
    /// The servers'. Repeating it is safe.
    pub async fn make_stored(
        &self,
        progress: &ProgressSender,
    ) -> Result<Vec<String>, BackfillError> {
        let (mut blue, _) = open(&self.blue, "blue").await?;
        let (mut green, server) = open(&self.green, "green").await?;
        used_for_definitions(&mut green, &server).await?;
        let database = self.database.as_deref();
        let objects = Object::all(&mut blue, database, &self.filter, false).await?;
        let there: BTreeSet<(String, QualifiedName)> =
            Object::all(&mut green, database, &self.filter, false)
                .await?
                .into_iter()
                .map(|o| (o.kind, o.name))
                .collect();
        let mut defaults = Defaults::of(&mut green, self.notes()).await?;
        begin(progress, Phase::Rest, objects.len());
        let mut warnings = Vec::new();
        let mut views = Vec::new();
        for object in objects {
            let step = Step::begin(progress, object.name.to_string());
            let is_there = there.contains(&(object.kind.clone(), object.name.clone()));
            match object.kind.as_str() {
                "TRIGGER" => {
                    let definition = object.definition(&mut blue).await?;
                    note(&self.notes(), &mut green, Kind::Trigger, &object.name, &definition)
                        .await?;
                }
                _ if is_there => {
                    let wanted = object.definition(&mut blue).await?.statement;
                    let there = object.definition(&mut green).await?.statement;
                    if without_effect(&wanted).0 != without_effect(&there).0 {
                        warnings.push(format!(
                            "another {} {} is on green already and was left as it is",
                            object.kind.to_lowercase(),
                            object.name
                        ));
                    }
                }
                "VIEW" => views.push((object.name.clone(), object.definition(&mut blue).await?)),
                "EVENT" => {
                    let definition = object.definition(&mut blue).await?;
                    let (disabled, was_enabled) = without_effect(&definition.statement);
                    if was_enabled {
                        note(&self.notes(), &mut green, Kind::Event, &object.name, &definition)
                            .await?;
                    }
                    let definition = Definition { statement: disabled, ..definition };
                    let made = defaults.make(&mut green, &object.name, &definition).await?;
                    made.map_err(|error| refused("event", &object.name, error))?;
                }
                _ => {
                    let definition = object.definition(&mut blue).await?;
                    let made = defaults.make(&mut green, &object.name, &definition).await?;
                    made.map_err(|error| {
                        refused(&object.kind.to_lowercase(), &object.name, error)
                    })?;
                }
            }
            step.finish();
        }
        warnings.extend(defaults.give_back(&mut green).await?);
        warnings.extend(make_views(&mut green, views).await?);
        Ok(warnings)
    }
}

/// Something that runs, by name.
pub(super) struct Object {
    /// `TRIGGER`, `EVENT`, `VIEW`, `FUNCTION` or `PROCEDURE`.
    pub kind: String,
    pub name: QualifiedName,
    /// Triggers of one kind on one table fire in this order.
    pub order: u64,
    /// A trigger's table.
    pub table: Option<QualifiedName>,
}

impl Object {
    /// Everything of a side that runs, functions and procedures first; only what runs `by_itself`, if that
    /// is asked for.
    pub async fn all(
        conn: &mut Conn,
        database: Option<&str>,
        filter: &TableFilter,
        by_itself: bool,
    ) -> Result<Vec<Self>, BackfillError> {
        let of = |column: &str| match database {
            Some(database) => format!("{column} = {}", literal(database)),
            None => format!(
                "{column} NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', '_cutover')"
            ),
        };
        let select = |rank: usize, fields: &str, table: &str, schema: &str| {
            format!("SELECT {rank}, {fields} FROM information_schema.{table} WHERE {}", of(schema))
        };
        let routines = "routine_type, routine_schema, routine_name, 0, NULL";
        let views = "'VIEW', table_schema, table_name, 0, NULL";
        let events = "'EVENT', event_schema, event_name, 0, NULL";
        let triggers = "'TRIGGER', trigger_schema, trigger_name, action_order, event_object_table";
        let selects = [
            select(1, routines, "routines", "routine_schema"),
            select(2, views, "views", "table_schema"),
            select(3, events, "events", "event_schema"),
            select(4, triggers, "triggers", "trigger_schema"),
        ];
        let selects = if by_itself { &selects[2..] } else { &selects[..] };
        let sql = format!("{} ORDER BY 1, 2, 3, 4", selects.join(" UNION ALL "));
        type Fields = (u8, String, String, String, u64, Option<String>);
        let rows: Result<Vec<Fields>, _> = conn.query(sql).await;
        let rows = rows.map_err(|error| failed("reading what runs (views, triggers ..)", error))?;
        let object = |(_, kind, schema, name, order, table): Fields| {
            let table = table.map(|table| QualifiedName::new(&schema, table));
            let takes = match &table {
                Some(table) => filter.selects(table),
                None => filter.reaches(&schema),
            };
            takes.then(|| Self { kind, name: QualifiedName::new(&schema, name), order, table })
        };
        Ok(rows.into_iter().filter_map(object).collect())
    }

    /// Reads it; the columns of SHOW CREATE have the same names on both families but for the
    /// statement's own.
    pub async fn definition(&self, conn: &mut Conn) -> Result<Definition, BackfillError> {
        let doing =
            format!("reading the definition of the {} {}", self.kind.to_lowercase(), self.name);
        let sql = format!("SHOW CREATE {} {}", self.kind, qualified(&self.name));
        let row: Option<Row> =
            conn.query_first(sql).await.map_err(|error| failed(&doing, error))?;
        let mut fields = std::collections::BTreeMap::new();
        if let Some(mut row) = row {
            let columns = row.columns();
            for (at, column) in columns.iter().enumerate() {
                if let Some(Ok(Some(text))) = row.take_opt::<Option<String>, _>(at) {
                    fields.insert(column.name_str().to_ascii_lowercase(), text);
                }
            }
        }
        let statement = fields
            .iter()
            .find(|(name, _)| name.starts_with("create ") || *name == "sql original statement");
        let Some((_, statement)) = statement else {
            return Err(BackfillError::halt(
                format!("{doing}: the server does not show it"),
                "grant the account the right to see it (SHOW VIEW, TRIGGER, EVENT, SHOW_ROUTINE; on \
                 MariaDB SELECT on mysql.proc or SHOW CREATE ROUTINE)",
            ));
        };
        let field = |name: &str| fields.get(name).cloned();
        Ok(Definition {
            order: self.order,
            sql_mode: field("sql_mode").unwrap_or_default(),
            collation: field("collation_connection").unwrap_or_default(),
            database_collation: field("database collation").unwrap_or_default(),
            time_zone: field("time_zone"),
            statement: statement.clone(),
            table: self.table.clone(),
        })
    }
}

/// Runs a definition in a session like the one that it was made in.
///
/// `character_set_client` stays UTF-8, in which the text arrives; what literals are is decided by the
/// collation of the connection.
pub(super) async fn make(
    green: &mut Conn,
    name: &QualifiedName,
    definition: &Definition,
) -> Result<(), mysql_async::Error> {
    let mut session = vec![format!("sql_mode = {}", literal(&definition.sql_mode))];
    if !definition.collation.is_empty() {
        session.push(format!("collation_connection = {}", literal(&definition.collation)));
    }
    if let Some(zone) = &definition.time_zone {
        session.push(format!("time_zone = {}", literal(zone)));
    }
    green.query_drop(format!("USE {}", decoders::mysql::server::identifier(&name.schema))).await?;
    green.query_drop(format!("SET SESSION {}", session.join(", "))).await?;
    let made = green.query_drop(&definition.statement).await;
    let plain = "SET NAMES utf8mb4, SESSION time_zone = '+00:00', \
                 SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES'";
    green.query_drop(plain).await?;
    made
}

/// Views use each other: those that can be made are, until all are there or none can.
async fn make_views(
    green: &mut Conn,
    mut views: Vec<(QualifiedName, Definition)>,
) -> Result<Vec<String>, BackfillError> {
    loop {
        let (mut left, mut reasons) = (Vec::new(), Vec::new());
        let before = views.len();
        for (name, definition) in views {
            match make(green, &name, &definition).await {
                Ok(()) => {}
                Err(error @ mysql_async::Error::Server(_)) => {
                    reasons.push(format!("the view {name} can't be made: {}", describe(&error)));
                    left.push((name, definition));
                }
                Err(error) => return Err(failed(format!("making the view {name}"), error)),
            }
        }
        // A view may be broken on blue just as well: nothing that is moved depends on it.
        if left.is_empty() || left.len() == before {
            return Ok(reasons);
        }
        views = left;
    }
}

/// An event's statement with DISABLE, and whether it was enabled.
///
/// What stands between schedule and body is always printed as
/// `ON COMPLETION [NOT] PRESERVE {ENABLE | DISABLE | ..}`, and the schedule holds no such words but
/// in quotes, which come in pairs.
pub(super) fn without_effect(statement: &str) -> (String, bool) {
    const WORDS: [&str; 2] =
        [" ON COMPLETION NOT PRESERVE ENABLE", " ON COMPLETION PRESERVE ENABLE"];
    for words in WORDS {
        for (at, _) in statement.match_indices(words) {
            let before = &statement[..at];
            let is_open = |quote: char| before.matches(quote).count() % 2 == 1;
            if is_open('`') || is_open('\'') {
                continue;
            }
            let kept = words.trim_end_matches("ENABLE");
            return (format!("{before}{kept}DISABLE{}", &statement[at + words.len()..]), true);
        }
    }
    (statement.to_owned(), false)
}

fn refused(kind: &str, name: &QualifiedName, error: mysql_async::Error) -> BackfillError {
    failed(format!("making the {kind} {name} on green"), error).or_remedy(
        "create it on green by hand, or drop it on blue if nobody needs it; a definer that green lacks \
         can be created locked",
    )
}

pub(super) async fn note(
    notes: &Notes,
    green: &mut Conn,
    kind: Kind,
    name: &QualifiedName,
    definition: &Definition,
) -> Result<(), BackfillError> {
    let detail = serde_json::to_string(definition)
        .map_err(|error| BackfillError::retry(format!("noting {name}: {error}")))?;
    notes.write(green, kind, name, WAITING, &detail).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_disabled_outside_of_quotes() {
        let body = " DO select ' ON COMPLETION PRESERVE ENABLE'";
        let event =
            format!("CREATE EVENT `e` ON SCHEDULE EVERY 1 DAY ON COMPLETION PRESERVE ENABLE{body}");
        let (disabled, was_enabled) = without_effect(&event);
        assert!(was_enabled);
        assert!(
            disabled.ends_with(&format!(" ON COMPLETION PRESERVE DISABLE{body}")),
            "{disabled}"
        );
        let (same, was_enabled) = without_effect(&disabled);
        assert_eq!((same, was_enabled), (disabled, false));
    }
}
