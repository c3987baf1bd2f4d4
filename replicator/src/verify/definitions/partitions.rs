//! How tables are partitioned, added to the tables that are known. Rows go where bounds say, and a row that no partition
//! takes is refused.

use std::collections::HashMap;

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, Trouble};
use super::shape::qualified;
use super::{exact, property};

/// What a table has that is none of it.
const NONE: &str = "none";

pub(super) async fn read(reader: &Reader, objects: &mut [Described]) -> Result<(), Trouble> {
    // Bounds are printed in this session's time zone and styles, which are the same on both sides.
    let sql = format!(
        "SELECT {table}, {parent}, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition \
         LEFT JOIN pg_class p ON p.oid = i.inhparent \
         LEFT JOIN pg_namespace m ON m.oid = p.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND (c.relkind = 'p' OR c.relispartition)",
        table = qualified("n.nspname", "c.relname"),
        parent = qualified("m.nspname", "p.relname"),
    );
    let mut found = HashMap::new();
    for row in reader.rows(&sql).await? {
        let [Some(table), parent, bounds, key] = <[_; 4]>::try_from(row)
            .map_err(|_| Trouble::unexpected(reader.side, "no table's partitions"))?
        else {
            continue;
        };
        found.insert(table, (parent, bounds, key));
    }
    for table in objects.iter_mut().filter(|object| object.kind == "table") {
        let (parent, bounds, key) = found.remove(&table.name).unwrap_or_default();
        let of = match (&parent, &bounds) {
            (Some(parent), Some(bounds)) => format!("{parent} {bounds}"),
            (Some(parent), None) => parent.clone(),
            (None, _) => NONE.to_owned(),
        };
        let mut partition = exact("partition of", of);
        if let (Some(parent), Some(bounds)) = (&parent, &bounds) {
            let name = &table.name;
            partition = partition.set_by(format!(
                "ALTER TABLE {parent} DETACH PARTITION {name}; \
                 ALTER TABLE {parent} ATTACH PARTITION {name} {bounds}"
            ));
        }
        table.properties.push(partition);
        // An expression may be printed in another way by another version.
        let key = key.as_deref().unwrap_or(NONE);
        table.properties.push(property("partition key", key, Rigor::Text));
    }
    Ok(())
}
