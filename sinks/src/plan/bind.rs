//! A source table fitted to green's table.

use std::sync::Arc;

use decoders::change::{Column, ReplicaIdentity, TableSchema};

use super::ColumnSet;
use super::inner_oids::FIRST_VARIABLE_TYPE;
use crate::postgres::catalog::{GreenColumn, GreenTable, Identity};
use crate::target::TargetError;

/// Which of green's triggers and rules would fire in our session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fire {
    /// `session_replication_role = replica`: only those enabled ALWAYS or REPLICA.
    OnReplica,
    /// An ordinary session: all that are enabled, and the actions of foreign keys.
    OnOrigin,
    /// The operator accepted whatever fires.
    Accepted,
}

/// How a row is found again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Locator {
    /// By these columns, which are unique and not NULL.
    Key(Vec<usize>),
    /// By all columns, as there is no key.
    WholeRow,
    /// Not at all.
    Missing,
}

/// One version of a source table, fitted to green's table.
#[derive(Debug)]
pub struct TablePlan {
    schema: Arc<TableSchema>,
    green: GreenTable,
    /// For each column of the stream, its place in `green.columns`.
    columns: Vec<usize>,
    locator: Locator,
    /// Position in the stream of a GENERATED ALWAYS identity column; a table has one at most.
    identity_always: Option<usize>,
    fires: bool,
    key_is_unique: bool,
}

impl TablePlan {
    /// Fits `schema` to `green`.
    ///
    /// # Errors
    /// Halts if applying would diverge or could: columns of the stream that green lacks or has
    /// with another type, columns of green that can't be filled, triggers that would fire.
    pub fn new(
        schema: Arc<TableSchema>,
        green: GreenTable,
        fire: Fire,
    ) -> Result<Self, TargetError> {
        check_triggers(&green, fire)?;
        let columns = schema
            .columns
            .iter()
            .map(|column| fit_column(&schema, column, &green))
            .collect::<Result<Vec<usize>, TargetError>>()?;
        check_extra_columns(&green, &columns)?;
        let locator = locator(&schema, &green);
        let always = |at: &usize| green.columns[*at].identity == Some(Identity::Always);
        let identity_always = columns.iter().position(always);
        // Accepted does not say which of them the session fires: any may.
        let fires =
            fire == Fire::Accepted && !(green.triggers.is_empty() && green.cascades.is_empty());
        let key_is_unique = key_is_unique(&schema, &green, &locator);
        Ok(Self { schema, green, columns, locator, identity_always, fires, key_is_unique })
    }

    /// The table as the stream describes it.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// The table as green has it.
    pub fn green(&self) -> &GreenTable {
        &self.green
    }

    /// Green's column for the stream's column at `position`.
    pub fn green_column(&self, position: usize) -> &GreenColumn {
        &self.green.columns[self.columns[position]]
    }

    /// The columns that find a row, or `None` if the whole old row is needed (or there is no way).
    pub fn key_positions(&self) -> Option<&[usize]> {
        match &self.locator {
            Locator::Key(positions) => Some(positions),
            Locator::WholeRow | Locator::Missing => None,
        }
    }

    /// Whether triggers, rules or foreign keys of the table may act on what is applied, so that the
    /// order of changes matters across tables.
    pub(crate) fn fires(&self) -> bool {
        self.fires
    }

    /// Whether green lets at most one row have a key, so that the rows which a statement affects
    /// can be counted against the keys that it was given.
    pub(crate) fn key_is_unique(&self) -> bool {
        self.key_is_unique
    }

    /// Whether `present` has a column that an UPDATE can set.
    pub(crate) fn can_set(&self, present: &ColumnSet) -> bool {
        (0..self.schema.columns.len())
            .any(|at| present.contains(at) && Some(at) != self.identity_always)
    }

    pub(super) fn locator(&self) -> &Locator {
        &self.locator
    }

    pub(super) fn identity_always(&self) -> Option<usize> {
        self.identity_always
    }

    /// The stream's position of each of green's columns, where the stream has it.
    pub(super) fn stream_position(&self, green_at: usize) -> Option<usize> {
        self.columns.iter().position(|at| *at == green_at)
    }
}

fn key_is_unique(schema: &TableSchema, green: &GreenTable, locator: &Locator) -> bool {
    let Locator::Key(positions) = locator else { return false };
    let in_key = |name: &String| positions.iter().any(|at| schema.columns[*at].name == *name);
    green.unique_keys.iter().any(|unique| unique.columns.iter().all(in_key))
}

/// Refuses a table whose triggers, rules or foreign keys would act on what is applied.
pub(crate) fn check_triggers(green: &GreenTable, fire: Fire) -> Result<(), TargetError> {
    let firing = |replica: bool| {
        let fires = green.triggers.iter().filter(move |trigger| match replica {
            true => trigger.fires_on_replica,
            false => trigger.fires_on_origin,
        });
        fires.map(|trigger| format!("{:?}", trigger.name)).collect::<Vec<_>>()
    };
    let (names, remedy) = match fire {
        Fire::Accepted => return Ok(()),
        Fire::OnReplica => (
            firing(true),
            "They are enabled ALWAYS or REPLICA, so they would repeat on green what blue's \
             triggers already did. ALTER TABLE .. DISABLE TRIGGER (or RULE) on green until the \
             cutover, or allow firing triggers in the configuration",
        ),
        Fire::OnOrigin => {
            let mut names = firing(false);
            names.extend(green.cascades.iter().map(|name| format!("foreign key {name}")));
            (
                names,
                "They would repeat on green what blue already did. Let the replicator's role on \
                 green SET session_replication_role (GRANT SET ON PARAMETER session_replication_role \
                 TO role, PostgreSQL 15+; superuser or the provider's administrator role before), \
                 or disable the triggers and drop the cascading foreign keys until the cutover",
            )
        }
    };
    if names.is_empty() {
        return Ok(());
    }
    let message =
        format!("triggers or rules of {} on green would fire: {}", green.name, names.join(", "));
    Err(TargetError::halt(message, remedy))
}

fn fit_column(
    schema: &TableSchema,
    column: &Column,
    green: &GreenTable,
) -> Result<usize, TargetError> {
    let name = &schema.name;
    let Some(at) = green.columns.iter().position(|c| c.name == column.name) else {
        return Err(TargetError::halt(
            format!("{name} has a column {:?} on blue that green lacks", column.name),
            format!(
                "The table was altered on blue. Make the same change on green (ALTER TABLE .. ADD \
                 COLUMN), then it goes on by itself. Rows that were there before may have got another value on \
                 each side (a DEFAULT, an identity): cutover verify --table '{name}' shows it, and cutover \
                 repair makes them equal"
            ),
        ));
    };
    let target = &green.columns[at];
    if target.generated.is_some() {
        return Err(TargetError::halt(
            format!(
                "{name}: column {:?} is generated on green, but blue sends values",
                column.name
            ),
            "Make the column alike on both sides, or publish without generated columns \
             (publish_generated_columns = none)",
        ));
    }
    let fits = types_fit(column.type_oid, target.type_oid)
        && (target.type_oid >= FIRST_VARIABLE_TYPE
            || modifier_fits(target.type_oid, column.type_modifier, target.type_modifier));
    if !fits {
        return Err(TargetError::halt(
            format!(
                "{name}: column {:?} is {} on green; on blue its type is another (OID {}, modifier {})",
                column.name, target.type_name, column.type_oid, column.type_modifier
            ),
            "The table was altered on blue, or green's was made differently. Give the column the \
             same type on green (ALTER TABLE .. ALTER COLUMN .. TYPE), then it goes on \
             by itself",
        ));
    }
    Ok(at)
}

/// Built-in types must be the same; others can't be compared by OID.
fn types_fit(source: u32, target: u32) -> bool {
    match (source < FIRST_VARIABLE_TYPE, target < FIRST_VARIABLE_TYPE) {
        (true, true) => source == target,
        (false, false) => true,
        _ => false,
    }
}

/// Whether every value of the source's type modifier is kept as it is by the target's.
fn modifier_fits(type_oid: u32, source: i32, target: i32) -> bool {
    /// varchar(n) and varbit(n): a longer limit changes no value.
    const LIMITS: [u32; 2] = [1043, 1562];
    target == source
        || target == -1
        || (LIMITS.contains(&type_oid) && source != -1 && target > source)
}

fn check_extra_columns(green: &GreenTable, used: &[usize]) -> Result<(), TargetError> {
    let unfillable = green.columns.iter().enumerate().find(|(at, column)| {
        let fills_itself =
            column.has_default || column.generated.is_some() || column.identity.is_some();
        !used.contains(at) && column.not_null && !fills_itself
    });
    match unfillable {
        None => Ok(()),
        Some((_, column)) => Err(TargetError::halt(
            format!(
                "{} has a column {:?} on green that is NOT NULL without a default and that blue \
                 does not send",
                green.name, column.name
            ),
            "If the column was dropped on blue, drop it on green too; otherwise give it a DEFAULT \
             or make it nullable, then it goes on by itself",
        )),
    }
}

fn locator(schema: &TableSchema, green: &GreenTable) -> Locator {
    match schema.identity {
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            let key: Vec<usize> = schema.key_positions().collect();
            if key.is_empty() { Locator::Missing } else { Locator::Key(key) }
        }
        // The old row is complete, so any key of green's will do, and finds it by an index.
        ReplicaIdentity::Full => {
            let position = |name: &String| schema.column_names().position(|column| column == name);
            let key = green.unique_keys.iter().find_map(|unique| {
                unique.columns.iter().map(position).collect::<Option<Vec<usize>>>()
            });
            key.map_or(Locator::WholeRow, Locator::Key)
        }
        ReplicaIdentity::Nothing => Locator::Missing,
    }
}
