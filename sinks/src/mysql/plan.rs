//! A source table fitted to green's table.

use std::sync::Arc;

use decoders::change::{ChangeEvent, OldRow, QualifiedName, Row, RowForm, TableSchema};
use decoders::mysql::catalog::{ColumnInfo, TableInfo, TableKind};
use decoders::mysql::server::identifier;
use decoders::mysql::{SourceType, labels};

use super::events::TableEvents;
use super::literal::Kind;
use super::read::GreenTable;
use crate::net::{NetPlan, Reduces, Why};
use crate::plan::ColumnSet;
use crate::target::TargetError;

/// A column of the stream.
#[derive(Clone, Debug)]
pub(super) struct PlanColumn {
    /// The name as an SQL identifier.
    pub name: String,
    pub kind: Kind,
    /// Green computes it: it is never written.
    pub generated: bool,
    /// Green might set it by itself when a row changes (ON UPDATE CURRENT_TIMESTAMP), so every UPDATE
    /// says its value.
    pub always_set: bool,
    /// Its character set on green, of text.
    pub charset: Option<String>,
}

/// One version of a source table, fitted to green's table.
#[derive(Debug)]
pub(super) struct Plan {
    schema: Arc<TableSchema>,
    /// The table as an SQL identifier.
    pub name: String,
    /// By the stream's positions.
    pub columns: Vec<PlanColumn>,
    /// The stream's positions of a key of green.
    key: Option<Vec<usize>>,
    /// The stream's positions of columns that cascading foreign keys refer to, where green acts on them.
    cascading: Vec<usize>,
    /// It has triggers, and the operator accepts that they fire.
    fires: bool,
    /// Its rows can go as row events.
    events: Option<TableEvents>,
    /// The form of the rows that it was made for, if they have one.
    form: Option<Arc<RowForm>>,
}

impl Plan {
    /// Fits `schema` to `green`.
    ///
    /// # Errors
    /// Halts if applying would diverge or could: columns that are missing on one side, triggers.
    pub(super) fn new(
        schema: Arc<TableSchema>,
        green: &GreenTable,
        checks_foreign_keys: bool,
        accept_triggers: bool,
    ) -> Result<Self, TargetError> {
        let info = &green.info;
        let name = &schema.name;
        kind_is_applied(name, info)?;
        if !info.triggers.is_empty() && !accept_triggers {
            let names: Vec<_> = info.triggers.iter().map(|t| t.name.name.as_str()).collect();
            return Err(TargetError::halt(
                format!("triggers of {name} on green would fire: {}", names.join(", ")),
                "They would repeat on green what blue's triggers already did. Drop them on green \
                 until the cutover",
            ));
        }
        let columns = schema.column_names().map(|column| fit(&schema, column, green));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let position = |wanted: &str| schema.column_names().position(|name| name == wanted);
        let unfillable = info.columns.iter().find(|column| {
            let fills_itself =
                column.default.is_some() || column.generated.is_some() || column.auto_increment;
            position(&column.name).is_none() && !column.nullable && !fills_itself
        });
        if let Some(column) = unfillable {
            return Err(TargetError::halt(
                format!(
                    "{name} has a column {:?} on green that is NOT NULL without a default and that \
                     blue does not send",
                    column.name
                ),
                "Make the table on green as on blue, then it goes on by itself",
            ));
        }
        let key = info.row_key().and_then(|key| {
            let parts = key.columns.iter().map(|part| position(part.column.as_deref()?));
            parts.collect::<Option<Vec<usize>>>()
        });
        let cascading = match checks_foreign_keys {
            true => green.cascading.iter().filter_map(|name| position(name)).collect(),
            false => Vec::new(),
        };
        let table = format!("{}.{}", identifier(&name.schema), identifier(&name.name));
        let fires = !info.triggers.is_empty();
        let (events, form) = (None, None);
        Ok(Plan { name: table, columns, key, cascading, fires, events, form, schema })
    }

    /// The same for rows of a form, which may be one that goes as events.
    pub(super) fn of_form(self, form: Option<&Arc<RowForm>>, events: Option<TableEvents>) -> Plan {
        Plan { form: form.cloned(), events, ..self }
    }

    /// Whether it was made for rows of this form.
    pub(super) fn is_of(&self, form: Option<&Arc<RowForm>>) -> bool {
        self.form.as_ref() == form
    }

    /// How its rows go as row events.
    pub(super) fn events(&self) -> Option<&TableEvents> {
        self.events.as_ref()
    }

    /// Positions of the columns that are written.
    pub(super) fn written(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.columns.len()).filter(|at| !self.columns[*at].generated)
    }

    /// The stream's version of the table.
    pub(super) fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// The columns that find a row.
    pub(super) fn key(&self) -> Option<&[usize]> {
        self.key.as_deref()
    }

    fn check_width(&self, row: &Row) -> Result<(), Why> {
        // What green computes may be missing.
        let is_there = |at| row.value(at).is_some();
        match row.width() == self.columns.len() && self.written().all(is_there) {
            true => Ok(()),
            false => Err(Why::Unfit),
        }
    }
}

fn fit(schema: &TableSchema, name: &str, green: &GreenTable) -> Result<PlanColumn, TargetError> {
    let Some(column) = green.info.column(name) else {
        return Err(TargetError::halt(
            format!("{} has a column {name:?} on blue that green lacks", schema.name),
            "The table was altered on blue, or green's was made differently. Make it on green as on \
             blue, then it goes on by itself",
        ));
    };
    let source = schema.columns.iter().find(|column| column.name == name);
    if let Some(source) = source.and_then(SourceType::of)
        && column.generated.is_none()
        && !source.fits(column)
    {
        return Err(TargetError::halt(
            format!(
                "{}: column {name:?} is {source} on blue and {} on green, which would store other \
                 values than blue's without a word",
                schema.name, column.column_type
            ),
            "Give the column on green blue's type, then it goes on by itself; nothing of the \
             transaction was kept",
        ));
    }
    let labels = labels(&column.column_type);
    let kind = Kind::of(&column.data_type, labels.as_deref()).ok_or_else(|| {
        TargetError::halt(
            format!(
                "{}: column {name:?} has a type that is not known: {}",
                schema.name, column.data_type
            ),
            "Leave the table out of those that are moved, and please report the type",
        )
    })?;
    let ColumnInfo { generated, data_type, charset, .. } = column;
    Ok(PlanColumn {
        name: identifier(name),
        kind,
        generated: generated.is_some(),
        always_set: matches!(data_type.as_str(), "timestamp" | "datetime"),
        charset: charset.clone(),
    })
}

/// Whether deleting all rows of a table does on green what TRUNCATE did on blue.
///
/// # Errors
/// Halts if it does not: blue's TRUNCATE fired no triggers, and can't be taken back on some engines.
pub(super) fn can_be_emptied(
    table: &TableSchema,
    green: Option<&GreenTable>,
) -> Result<(), TargetError> {
    let info = &green.ok_or_else(|| missing_table(table))?.info;
    kind_is_applied(&table.name, info)?;
    let mut firing = info.triggers.iter().filter(|trigger| trigger.fires.ends_with("DELETE"));
    match firing.next() {
        None => Ok(()),
        Some(trigger) => Err(TargetError::halt(
            format!(
                "{} was emptied on blue by TRUNCATE, which fires nothing; on green the trigger {} would \
                 fire for every row",
                table.name, trigger.name.name
            ),
            "Drop the trigger on green until the cutover, then it goes on by itself; nothing of \
             the transaction was kept",
        )),
    }
}

fn kind_is_applied(name: &QualifiedName, info: &TableInfo) -> Result<(), TargetError> {
    if info.kind != TableKind::Plain {
        return Err(TargetError::halt(
            format!("{name} is a sequence or system-versioned on green"),
            "Such tables are not moved yet: leave it out of the tables that are moved",
        ));
    }
    if !info.is_transactional() {
        return Err(TargetError::halt(
            format!("{name} has an engine on green that can't roll back"),
            "ALTER TABLE .. ENGINE = InnoDB on green, then it goes on by itself",
        ));
    }
    Ok(())
}

/// The error for a table that green does not have.
pub(super) fn missing_table(table: &TableSchema) -> TargetError {
    TargetError::halt(
        format!("{} is not there on green", table.name),
        "The table was created on blue after the copy, or dropped on green. Make it on green as on \
         blue, or leave it out of the tables that are moved",
    )
}

impl NetPlan for Plan {
    fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    fn is_same_table(&self, other: &Self) -> bool {
        self.schema.name == other.schema.name
    }

    /// What foreign keys do depends on the change: see [`Plan::reduces`](NetPlan::reduces).
    fn fires(&self) -> bool {
        self.fires
    }

    fn key_positions(&self) -> Option<&[usize]> {
        self.key()
    }

    fn key_is_unique(&self) -> bool {
        self.key.is_some()
    }

    fn can_set(&self, _present: &ColumnSet) -> bool {
        // A table has a column that is not computed, and images have all of them.
        true
    }

    fn reduces(&self, change: &ChangeEvent) -> Result<Reduces, Why> {
        let cascades = |old: &Row, new: Option<&Row>| {
            let differs = |at: &usize| new.is_none_or(|new| old.value(*at) != new.value(*at));
            self.cascading.iter().any(differs)
        };
        match change {
            ChangeEvent::Insert { new, .. } => self.check_width(new)?,
            ChangeEvent::Update { old: Some(OldRow::Full(old)), new, .. } => {
                self.check_width(old)?;
                self.check_width(new)?;
                if cascades(old, Some(new)) {
                    return Err(Why::Fires);
                }
            }
            ChangeEvent::Delete { old: OldRow::Full(old), .. } => {
                self.check_width(old)?;
                if cascades(old, None) {
                    return Err(Why::Fires);
                }
            }
            ChangeEvent::Update { .. } | ChangeEvent::Delete { .. } => return Err(Why::Unfit),
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => {}
        }
        Ok(Reduces::ByKey)
    }
}
