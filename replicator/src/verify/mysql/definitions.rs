//! Reads what is no row: databases, tables, columns, keys, constraints, what runs, and where counters
//! are.

mod comparing;
mod databases;

use std::collections::{BTreeMap, BTreeSet};

use cutover::verify::ObjectFinding;
use cutover::verify::objects::{Described, Property, Rigor};
use decoders::QualifiedName;
use decoders::mysql::catalog::{ForeignKey, TableInfo, TableKind};
use decoders::mysql::server::{Server, identifier, literal};

use super::side::Reader;
use super::table_options::{self, Options};
use crate::schema::mysql::{canonical_name, plain_type, qualified};
use crate::verify::Trouble;

pub(super) use comparing::{compare, compare_objects};

/// What a side has, besides rows.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    objects: Vec<Described>,
    counters: Vec<Counter>,
    /// By a table's quoted name; only of tables that have any.
    options: BTreeMap<String, Options>,
    /// What could not be compared, and what it takes.
    unread: Option<ObjectFinding>,
    /// Triggers and events that the flip makes or enables, by kind and name.
    waiting: BTreeSet<(String, String)>,
}

/// The next value of something that counts.
#[derive(Debug)]
struct Counter {
    kind: &'static str,
    name: String,
    next: i64,
    increment: i64,
}

/// Which definitions are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// Only this database.
    pub database: Option<&'a str>,
    /// Everything that belongs to no table, too.
    pub is_whole: bool,
}

impl Scope<'_> {
    fn condition(self, column: &str) -> String {
        match self.database {
            Some(database) => format!("{column} = {}", literal(database)),
            None => format!(
                "{column} NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', \
                 '_cutover')"
            ),
        }
    }
}

fn exact(name: &str, value: impl ToString) -> Property {
    Property::new(name, value, Rigor::Exact)
}

fn text(name: &str, value: impl ToString) -> Property {
    Property { rigor: Rigor::Text, ..exact(name, value) }
}

fn described(kind: &str, name: String, properties: Vec<Property>) -> Described {
    Described::new(kind, name, properties)
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "none".to_owned())
}

/// A part of something, such as a column of a table.
fn within(table: &QualifiedName, part: &str) -> String {
    format!("{}.{}", qualified(table), identifier(part))
}

/// Reads everything about these tables, and about what runs.
pub(super) async fn read(
    reader: &mut Reader,
    server: &Server,
    tables: &[&TableInfo],
    scope: Scope<'_>,
) -> Result<Definitions, Trouble> {
    let mut found = Definitions::default();
    for table in tables {
        match table.kind {
            TableKind::Sequence => sequence(reader, table, &mut found).await?,
            TableKind::Plain | TableKind::SystemVersioned => of_table(table, &mut found),
        }
    }
    let names: BTreeSet<&QualifiedName> = tables.iter().map(|table| &table.name).collect();
    let (objects, options) = (&mut found.objects, &mut found.options);
    let mut asking = Asking { reader, scope, names, objects, options };
    asking.databases(server).await?;
    asking.comments().await?;
    let unread = asking.growth(server).await?;
    asking.indexes(server).await?;
    asking.checks(server).await?;
    asking.partitions().await?;
    asking.triggers().await?;
    if scope.is_whole {
        asking.views().await?;
        asking.routines().await?;
        asking.events().await?;
    }
    found.unread = unread;
    found.waiting = waiting(reader).await;
    Ok(found)
}

fn of_table(table: &TableInfo, found: &mut Definitions) {
    let name = qualified(&table.name);
    let objects = &mut found.objects;
    let properties = vec![
        exact("kind", format!("{:?}", table.kind)),
        exact("engine", or_none(table.engine.clone())),
        exact("collation", or_none(canonical_name(table.collation.as_deref()))),
    ];
    objects.push(described("table", name.clone(), properties));
    for column in &table.columns {
        let generated = column.generated.as_ref();
        let properties = vec![
            exact("position", column.position),
            exact("type", plain_type(&column.column_type)),
            exact("may be NULL", yes(column.nullable)),
            exact("character set", or_none(canonical_name(column.charset.as_deref()))),
            exact("collation", or_none(canonical_name(column.collation.as_deref()))),
            exact("generated", generated.map_or("no".into(), |(how, _)| format!("{how:?}"))),
            exact("invisible", yes(column.invisible)),
            exact("AUTO_INCREMENT", yes(column.auto_increment)),
            text("default", or_none(column.default.clone())),
            text("expression", or_none(generated.map(|(_, expression)| expression.clone()))),
        ];
        objects.push(described("column", within(&table.name, &column.name), properties));
    }
    objects.extend(table.foreign_keys.iter().map(|key| foreign_key(&table.name, key)));
    if let Some(next) = table.auto_increment {
        let next = i64::try_from(next).unwrap_or(i64::MAX);
        found.counters.push(Counter { kind: "auto_increment", name, next, increment: 1 });
    }
}

fn foreign_key(table: &QualifiedName, key: &ForeignKey) -> Described {
    let references = qualified(&key.references);
    let properties = vec![
        exact("columns", key.columns.join(", ")),
        exact("references", format!("{references} ({})", key.referenced_columns.join(", "))),
        exact("ON UPDATE", format!("{:?}", key.on_update)),
        exact("ON DELETE", format!("{:?}", key.on_delete)),
    ];
    described("constraint", within(table, &key.name), properties)
}

/// A sequence of MariaDB: its definition is in its row.
async fn sequence(
    reader: &mut Reader,
    table: &TableInfo,
    found: &mut Definitions,
) -> Result<(), Trouble> {
    let name = qualified(&table.name);
    let sql = format!(
        "SELECT CAST(next_not_cached_value AS CHAR), increment, minimum_value, maximum_value,
                start_value, cycle_option FROM {name}"
    );
    let Some(row) = reader.texts("reading a sequence", &sql).await?.into_iter().next() else {
        return Ok(());
    };
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    let mut field = || fields.next().unwrap_or_default();
    let number = |text: String| text.parse::<i64>().unwrap_or(i64::MAX);
    let (next, increment) = (number(field()), number(field()));
    let properties = vec![
        exact("increment", increment),
        exact("lowest value", field()),
        exact("highest value", field()),
        exact("first value", field()),
        exact("cycles", field()),
    ];
    found.objects.push(described("sequence", name.clone(), properties));
    found.counters.push(Counter { kind: "sequence", name, next, increment });
    Ok(())
}

/// Questions about all tables at once.
struct Asking<'a> {
    reader: &'a mut Reader,
    scope: Scope<'a>,
    names: BTreeSet<&'a QualifiedName>,
    objects: &'a mut Vec<Described>,
    options: &'a mut BTreeMap<String, Options>,
}

/// A row of an answer whose first two fields are the table's (or another object's) name.
struct Answer {
    name: QualifiedName,
    fields: Vec<Option<String>>,
}

impl Answer {
    fn field(&self, at: usize) -> String {
        or_none(self.fields.get(at).cloned().flatten())
    }

    /// Properties in the order of the fields from `first` on.
    fn properties(&self, first: usize, names: &[(&str, Rigor)]) -> Vec<Property> {
        let property = |(at, (name, rigor)): (usize, &(&str, Rigor))| {
            Property::new(*name, self.field(first + at), *rigor)
        };
        names.iter().enumerate().map(property).collect()
    }
}

impl Asking<'_> {
    async fn ask(&mut self, what: &str, sql: &str) -> Result<Vec<Answer>, Trouble> {
        let rows = self.reader.texts(&format!("reading {what}"), sql).await?;
        let answer = |mut row: Vec<Option<String>>| {
            let fields = row.split_off(2);
            let mut name = row.into_iter().map(Option::unwrap_or_default);
            let (schema, name) = (name.next().unwrap_or_default(), name.next().unwrap_or_default());
            Answer { name: QualifiedName::new(schema, name), fields }
        };
        Ok(rows.into_iter().map(answer).collect())
    }

    /// The same about tables that are compared.
    async fn of_tables(&mut self, what: &str, sql: &str) -> Result<Vec<Answer>, Trouble> {
        let mut answers = self.ask(what, sql).await?;
        answers.retain(|answer| self.names.contains(&answer.name));
        Ok(answers)
    }

    /// What the catalog's reader leaves out: comments, options, and what happens on update.
    async fn comments(&mut self) -> Result<(), Trouble> {
        let sql = format!(
            "SELECT table_schema, table_name, column_name, column_comment, lower(extra), NULL
             FROM information_schema.columns WHERE {}
             UNION ALL SELECT table_schema, table_name, NULL, table_comment, NULL, create_options
             FROM information_schema.tables WHERE table_type <> 'VIEW' AND {}",
            self.scope.condition("table_schema"),
            self.scope.condition("table_schema"),
        );
        let places: BTreeMap<(String, String), usize> = (self.objects.iter().enumerate())
            .map(|(at, object)| ((object.kind.clone(), object.name.clone()), at))
            .collect();
        for answer in self.of_tables("comments", &sql).await? {
            let place = match answer.fields.first().cloned().flatten() {
                Some(column) => ("column".to_owned(), within(&answer.name, &column)),
                None => ("table".to_owned(), qualified(&answer.name)),
            };
            let Some(object) = places.get(&place).and_then(|at| self.objects.get_mut(*at)) else {
                continue;
            };
            object.properties.push(exact("comment", answer.field(1)));
            let options = answer.fields.get(3).and_then(Option::as_deref).map(table_options::parse);
            if let Some(options) = options.filter(|options| !options.is_empty()) {
                self.options.insert(object.name.clone(), options);
            }
            // `on update current_timestamp()`, and with MySQL also whether the default is an expression.
            let update =
                answer.field(2).find("on update").map(|at| answer.field(2)[at..].to_owned());
            object.properties.extend(update.map(|update| text("extra", update)));
        }
        Ok(())
    }

    async fn indexes(&mut self, server: &Server) -> Result<(), Trouble> {
        let (expression, hidden) = match server.is_mariadb() {
            true => ("NULL", "if(ignored = 'YES', 'yes', 'no')"),
            false => ("expression", "if(is_visible = 'NO', 'yes', 'no')"),
        };
        let sql = format!(
            "SELECT table_schema, table_name, index_name, if(non_unique = 0, 'yes', 'no'), index_type,
                    {hidden}, index_comment, column_name, sub_part, collation, {expression}
             FROM information_schema.statistics WHERE {}
             ORDER BY table_schema, table_name, index_name, seq_in_index",
            self.scope.condition("table_schema"),
        );
        let mut indexes: BTreeMap<String, (Vec<Property>, Vec<String>)> = BTreeMap::new();
        for answer in self.of_tables("indexes", &sql).await? {
            let of_index = [
                ("unique", Rigor::Exact),
                ("type", Rigor::Exact),
                ("not used by the optimizer", Rigor::Exact),
                ("comment", Rigor::Exact),
            ];
            let name = within(&answer.name, &answer.field(0));
            let new = || (answer.properties(1, &of_index), Vec::new());
            let (_, parts) = indexes.entry(name).or_insert_with(new);
            let part = |at: usize| answer.fields.get(at).cloned().flatten();
            let length = part(6).map(|length| format!("({length})")).unwrap_or_default();
            let descends = if part(7).as_deref() == Some("D") { " DESC" } else { "" };
            let column = part(5).or_else(|| part(8)).unwrap_or_default();
            parts.push(format!("{column}{length}{descends}"));
        }
        for (name, (mut properties, parts)) in indexes {
            properties.push(exact("columns", parts.join(", ")));
            self.objects.push(described("index", name, properties));
        }
        Ok(())
    }

    async fn checks(&mut self, server: &Server) -> Result<(), Trouble> {
        let sql = match server.is_mariadb() {
            true => format!(
                "SELECT constraint_schema, table_name, constraint_name, check_clause, 'YES'
                 FROM information_schema.check_constraints WHERE {}",
                self.scope.condition("constraint_schema"),
            ),
            false => format!(
                "SELECT t.table_schema, t.table_name, c.constraint_name, c.check_clause, t.enforced
                 FROM information_schema.check_constraints c
                 JOIN information_schema.table_constraints t
                   ON t.constraint_schema = c.constraint_schema
                  AND t.constraint_name = c.constraint_name AND t.constraint_type = 'CHECK'
                 WHERE {}",
                self.scope.condition("c.constraint_schema"),
            ),
        };
        for answer in self.of_tables("constraints", &sql).await? {
            let name = within(&answer.name, &answer.field(0));
            let properties =
                answer.properties(1, &[("definition", Rigor::Text), ("enforced", Rigor::Exact)]);
            self.objects.push(described("constraint", name, properties));
        }
        Ok(())
    }

    async fn partitions(&mut self) -> Result<(), Trouble> {
        let sql = format!(
            "SELECT table_schema, table_name, partition_name, coalesce(subpartition_name, ''),
                    partition_method, partition_expression, partition_description, partition_comment
             FROM information_schema.partitions WHERE partition_name IS NOT NULL AND {}
             ORDER BY 1, 2, partition_ordinal_position, subpartition_ordinal_position",
            self.scope.condition("table_schema"),
        );
        for answer in self.of_tables("partitions", &sql).await? {
            let mut name = within(&answer.name, &answer.field(0));
            let part = answer.field(1);
            if !part.is_empty() {
                name = format!("{name}.{}", identifier(&part));
            }
            let of_partition = [
                ("method", Rigor::Exact),
                ("expression", Rigor::Text),
                ("description", Rigor::Exact),
                ("comment", Rigor::Noted),
            ];
            self.objects.push(described("partition", name, answer.properties(2, &of_partition)));
        }
        Ok(())
    }

    async fn triggers(&mut self) -> Result<(), Trouble> {
        let sql = format!(
            "SELECT event_object_schema, event_object_table, trigger_name,
                    concat(action_timing, ' ', event_manipulation), action_order, action_statement,
                    definer, sql_mode, database_collation
             FROM information_schema.triggers WHERE {}",
            self.scope.condition("event_object_schema"),
        );
        for answer in self.of_tables("triggers", &sql).await? {
            let name = QualifiedName::new(&answer.name.schema, answer.field(0));
            let of_trigger = [
                ("fires", Rigor::Exact),
                ("order", Rigor::Exact),
                ("statement", Rigor::Exact),
                ("definer", Rigor::Exact),
                ("sql_mode", Rigor::Text),
            ];
            let mut properties = answer.properties(1, &of_trigger);
            properties.push(exact("table", qualified(&answer.name)));
            properties.push(collation(&answer.field(7)));
            self.objects.push(described("trigger", qualified(&name), properties));
        }
        Ok(())
    }

    async fn views(&mut self) -> Result<(), Trouble> {
        let sql = format!(
            "SELECT table_schema, table_name, view_definition, check_option, security_type, definer,
                    concat_ws(' ', character_set_client, collation_connection)
             FROM information_schema.views WHERE {}",
            self.scope.condition("table_schema"),
        );
        for answer in self.ask("views", &sql).await? {
            let of_view = [
                ("definition", Rigor::Text),
                ("check option", Rigor::Exact),
                ("runs as", Rigor::Exact),
                ("definer", Rigor::Exact),
                ("character sets", Rigor::Text),
            ];
            let properties = answer.properties(0, &of_view);
            self.objects.push(described("view", qualified(&answer.name), properties));
        }
        Ok(())
    }

    async fn routines(&mut self) -> Result<(), Trouble> {
        let sql = format!(
            "SELECT specific_schema, specific_name, routine_type, parameter_mode, parameter_name,
                    dtd_identifier
             FROM information_schema.parameters WHERE ordinal_position > 0 AND {}
             ORDER BY 1, 2, 3, ordinal_position",
            self.scope.condition("specific_schema"),
        );
        let mut parameters: BTreeMap<(String, QualifiedName), Vec<String>> = BTreeMap::new();
        for answer in self.ask("parameters of routines", &sql).await? {
            let kind = answer.field(0).to_lowercase();
            let (mode, of) = (answer.field(1), plain_type(&answer.field(3)));
            let parameter = format!("{mode} {} {of}", identifier(&answer.field(2)));
            parameters.entry((kind, answer.name)).or_default().push(parameter);
        }
        let sql = format!(
            "SELECT routine_schema, routine_name, lower(routine_type), dtd_identifier, routine_definition,
                    is_deterministic, sql_data_access, security_type, definer, sql_mode,
                    concat_ws(' ', character_set_client, collation_connection, database_collation),
                    routine_comment
             FROM information_schema.routines
             WHERE routine_type IN ('FUNCTION', 'PROCEDURE') AND {}",
            self.scope.condition("routine_schema"),
        );
        for answer in self.ask("routines", &sql).await? {
            let of_routine = [
                ("definition", Rigor::Exact),
                ("deterministic", Rigor::Exact),
                ("data access", Rigor::Exact),
                ("runs as", Rigor::Exact),
                ("definer", Rigor::Exact),
                ("sql_mode", Rigor::Text),
                ("character sets", Rigor::Text),
                ("comment", Rigor::Noted),
            ];
            let mut properties = answer.properties(2, &of_routine);
            properties.push(exact("gives", plain_type(&answer.field(1))));
            let (kind, name) = (answer.field(0), qualified(&answer.name));
            let taken = parameters.get(&(kind.clone(), answer.name)).cloned().unwrap_or_default();
            properties.push(exact("parameters", taken.join(", ")));
            self.objects.push(described(&kind, name, properties));
        }
        Ok(())
    }

    async fn events(&mut self) -> Result<(), Trouble> {
        let sql = format!(
            "SELECT event_schema, event_name, status, event_definition, event_type,
                    concat_ws(' ', execute_at, interval_value, interval_field, starts, ends),
                    on_completion, time_zone, definer, sql_mode, event_comment, database_collation
             FROM information_schema.events WHERE {}",
            self.scope.condition("event_schema"),
        );
        for answer in self.ask("events", &sql).await? {
            let of_event = [
                (STATUS, Rigor::Exact),
                ("statement", Rigor::Exact),
                ("type", Rigor::Exact),
                ("schedule", Rigor::Exact),
                ("on completion", Rigor::Exact),
                ("time zone", Rigor::Exact),
                ("definer", Rigor::Exact),
                ("sql_mode", Rigor::Text),
                ("comment", Rigor::Noted),
            ];
            let mut properties = answer.properties(0, &of_event);
            properties.push(collation(&answer.field(9)));
            self.objects.push(described("event", qualified(&answer.name), properties));
        }
        Ok(())
    }
}

/// The default of its database when something was made.
fn collation(name: &str) -> Property {
    text(DATABASE_COLLATION, or_none(canonical_name(Some(name))))
}

const READ_ONLY: &str = "read only";
const DATABASE_COLLATION: &str = "database collation";
/// Whether an event runs.
const STATUS: &str = "status";

/// What the notes of the copy say is still to come; nothing where there are none.
async fn waiting(reader: &mut Reader) -> BTreeSet<(String, String)> {
    let sql = "SELECT kind, db, name FROM _cutover.copy_notes
               WHERE kind IN ('trigger', 'event') AND state = 'waiting'";
    let rows = reader.texts("reading the notes of the copy", sql).await.unwrap_or_default();
    let waits = |row: Vec<Option<String>>| {
        let mut fields = row.into_iter().flatten();
        let (kind, schema, name) = (fields.next()?, fields.next()?, fields.next()?);
        Some((kind, qualified(&QualifiedName::new(schema, name))))
    };
    rows.into_iter().filter_map(waits).collect()
}
