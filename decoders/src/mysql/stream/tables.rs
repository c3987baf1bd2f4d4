//! The tables of the row events, as the stream and, where that says too little, the catalog
//! describe them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::{Column, QualifiedName, ReplicaIdentity, RowForm, TableId, TableSchema};
use crate::mysql::catalog::TableInfo;
use crate::mysql::charset::Charset;
use crate::mysql::{CatalogColumn, Flavor, Layout, Rows, Selection, TableMap, WireType, form};

use super::error::StreamFault;

/// A table that row events may refer to.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// Its rows are left out.
    Skipped,
    Described(Arc<Described>),
}

/// What it takes to read the rows of a table.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) schema: Arc<TableSchema>,
    pub(super) layout: Layout,
    /// How its rows are written, if that is known for sure and wanted.
    pub(super) form: Option<Arc<RowForm>>,
}

/// All tables of a stream.
#[derive(Debug)]
pub(super) struct Tables {
    selection: Selection,
    /// Whether rows keep the image that they came as.
    keeps_images: bool,
    /// Taken whatever the selection says.
    always: Vec<QualifiedName>,
    /// Not taken whatever the selection says.
    left_out: Vec<QualifiedName>,
    /// By the number of the last table map.
    mapped: HashMap<u64, (Arc<TableMap>, Known)>,
    /// What the catalog says, since the last statement that may have changed it; `None` for a table
    /// that is not there.
    catalog: HashMap<QualifiedName, Option<TableInfo>>,
    /// Our own numbers: those of the binlog change whenever a table is opened.
    ids: HashMap<QualifiedName, TableId>,
}

/// Numbers of tables that are remembered; more are only there if tables are opened again and again.
const MOST_MAPPED: usize = 10_000;

impl Tables {
    pub(super) fn new(selection: Selection) -> Tables {
        Tables {
            selection,
            keeps_images: false,
            always: Vec::new(),
            left_out: Vec::new(),
            mapped: HashMap::new(),
            catalog: HashMap::new(),
            ids: HashMap::new(),
        }
    }

    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }

    pub(super) fn keep_images(&mut self) {
        self.keeps_images = true;
    }

    pub(super) fn always(&mut self, tables: Vec<QualifiedName>) {
        self.always = tables;
    }

    pub(super) fn leave_out(&mut self, tables: Vec<QualifiedName>) {
        self.left_out = tables;
    }

    /// Statements may have changed what the catalog says.
    pub(super) fn forget_catalog(&mut self) {
        self.catalog.clear();
        self.mapped.clear();
    }

    /// Whose catalog entry is needed before `map` can be taken.
    pub(super) fn missing(&self, map: &Arc<TableMap>) -> Option<QualifiedName> {
        if self.is_known(map) {
            return None;
        }
        let name = name_of(map);
        let needed = self.takes(&name) && needs_catalog(map) && !self.catalog.contains_key(&name);
        needed.then_some(name)
    }

    /// Whose catalog entry is needed before rows that lack columns can be taken.
    pub(super) fn missing_for(&self, table_id: u64) -> Option<QualifiedName> {
        let Some(Known::Described(described)) = self.get(table_id) else { return None };
        let name = &described.schema.name;
        (!self.catalog.contains_key(name)).then(|| name.clone())
    }

    /// Whether all columns that the rows lack are generated ones. MariaDB leaves them out of updates
    /// (seen on 11.8, whatever `binlog_row_image`); who stores the rows computes them.
    pub(super) fn are_generated(&self, described: &Described, rows: &Rows) -> bool {
        let Some(Some(table)) = self.catalog.get(&described.schema.name) else { return false };
        let columns = &table.columns;
        let same = columns.iter().map(|column| &column.name);
        let same = same.eq(described.schema.columns.iter().map(|column| &column.name));
        let generated =
            |at: usize| columns.get(at).is_some_and(|column| column.generated.is_some());
        same && rows.absent().all(generated)
    }

    /// Keeps what the catalog says.
    pub(super) fn describe(&mut self, name: QualifiedName, table: Option<TableInfo>) {
        self.catalog.insert(name, table);
    }

    /// Takes a table map.
    pub(super) fn map(&mut self, map: Arc<TableMap>) -> Result<(), StreamFault> {
        if self.is_known(&map) {
            return Ok(());
        }
        let name = name_of(&map);
        let known = match self.takes(&name) {
            false => Known::Skipped,
            true => Known::Described(Arc::new(self.described(&name, &map)?)),
        };
        if self.mapped.len() >= MOST_MAPPED {
            self.mapped.clear();
        }
        self.mapped.insert(map.table_id, (map, known));
        Ok(())
    }

    /// The table of a row event.
    pub(super) fn get(&self, table_id: u64) -> Option<&Known> {
        self.mapped.get(&table_id).map(|(_, known)| known)
    }

    fn is_known(&self, map: &Arc<TableMap>) -> bool {
        // Mostly the decoder gives the same one again, and `Arc` looks at that first.
        self.mapped.get(&map.table_id).is_some_and(|(known, _)| known == map)
    }

    fn takes(&self, name: &QualifiedName) -> bool {
        self.always.contains(name) || self.selection.takes(name) && !self.left_out.contains(name)
    }

    fn described(
        &mut self,
        name: &QualifiedName,
        map: &TableMap,
    ) -> Result<Described, StreamFault> {
        let catalog = match self.catalog.get(name) {
            Some(Some(table)) if needs_catalog(map) => {
                if !table.fits(map) {
                    return Err(StreamFault::OtherShape { table: name.clone() });
                }
                Some(table)
            }
            _ if needs_catalog(map) => return Err(StreamFault::NoCatalog { table: name.clone() }),
            _ => None,
        };
        let described: Vec<CatalogColumn> = catalog
            .map(|table| table.columns.iter().map(|column| column.decoding()).collect())
            .unwrap_or_default();
        let layout = Layout::new(map, &described)?;
        let key: Option<Vec<usize>> = match (&map.primary_key, catalog) {
            (Some(parts), _) => Some(parts.iter().map(|part| part.column).collect()),
            // Full metadata that names no key says that there is none.
            (None, Some(table)) if !has_names(map) => table.primary_key_positions(),
            (None, _) => None,
        };
        let form = self.keeps_images.then(|| form::of_map(map, &described)).flatten();
        let columns = map.columns.iter().enumerate().map(|(at, column)| {
            let of_catalog = || catalog.map(|table| table.columns[at].name.clone());
            let name = column.metadata.name.clone().or_else(of_catalog).unwrap_or_default();
            let in_key = key.as_ref().is_none_or(|key| key.contains(&at));
            let (type_oid, type_modifier) = layout.columns()[at].source_type().numbers();
            Column { name, type_oid, type_modifier, in_key }
        });
        let columns = columns.collect();
        let identity = match key {
            Some(_) => ReplicaIdentity::Default,
            None => ReplicaIdentity::Full,
        };
        let next = TableId(u32::try_from(self.ids.len() + 1).unwrap_or(u32::MAX));
        let id = *self.ids.entry(name.clone()).or_insert(next);
        let schema = TableSchema { id, name: name.clone(), identity, columns };
        Ok(Described { schema: Arc::new(schema), layout, form: form.map(Arc::new) })
    }
}

fn name_of(map: &TableMap) -> QualifiedName {
    QualifiedName::new(&map.schema, &map.table)
}

fn has_names(map: &TableMap) -> bool {
    map.columns.iter().all(|column| column.metadata.name.is_some())
}

/// Whether the stream leaves something open: names, signs and character sets without
/// `binlog_row_metadata=FULL`, and always whether 4 or 16 bytes are a UUID or an address of MariaDB.
fn needs_catalog(map: &TableMap) -> bool {
    let ambiguous = map.columns.iter().any(|column| {
        let binary = column.metadata.collation.and_then(|id| Charset::of_collation(id).ok());
        matches!(column.wire, WireType::Char { most: 4 | 16 })
            && binary.is_none_or(|charset| charset == Charset::Binary)
    });
    !has_names(map) || (ambiguous && map.flavor == Flavor::Mariadb)
}
