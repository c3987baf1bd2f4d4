//! A new partition, made on the target as it was made on the source.
//!
//! Only what can be made exactly: a partition that holds rows, of a partitioned table that the target has
//! with the same columns. Its indexes and constraints come from that table; what it has of its own is compared with
//! the other definitions. It has to be there before its first row is applied, or the stream stops at that row.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{RelationRecord, quote_ident};
use decoders::postgres::error::message_of;
use decoders::postgres::session::{self, Session};

/// The table above has to be locked, and whoever writes to it waits behind us.
const LOCK_TIMEOUT_MS: u32 = 1000;

/// The statement that makes it.
pub(in crate::pipeline) fn statement(relation: &RelationRecord) -> Option<String> {
    let parent = relation.parents.first()?;
    let bounds = relation.bounds.as_ref()?;
    Some(format!("CREATE TABLE {} PARTITION OF {} {bounds}", relation.name, parent.name))
}

/// Makes it.
///
/// # Errors
/// Why that can't be done, in words without values.
pub(super) async fn create(
    target: &Session,
    there: &[RelationRecord],
    relation: &RelationRecord,
) -> Result<(), String> {
    let statement = match statement(relation) {
        Some(statement) if relation.is_decoded() => statement,
        _ => return Err("it is not a plain partition".into()),
    };
    let above = relation.parents.first().map(|parent| &parent.name);
    let root = there.iter().find(|other| Some(&other.name) == above && other.is_root);
    let root = root.ok_or("green does not have the partitioned table that it belongs to")?;
    if columns(root) != columns(relation) {
        return Err(format!("its columns are not those of {} on green", root.name));
    }
    let sql = format!(
        "BEGIN READ WRITE; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; {statement}; \
         ALTER TABLE {} OWNER TO {}; COMMIT",
        relation.name,
        quote_ident(&root.owner)
    );
    let made = target.batch_execute(&sql).await;
    if made.is_err() {
        // Also ends the transaction that failed; a session that is gone has none.
        target.batch_execute("ROLLBACK").await.map_err(|error| session::describe(&error))?;
    }
    made.map_err(|error| match error.as_db_error() {
        Some(refused) => message_of(refused).to_owned(),
        None => session::describe(&error),
    })
}

fn columns(relation: &RelationRecord) -> BTreeSet<(&str, &str, &str)> {
    let live = relation.columns.iter().filter(|column| !column.is_dropped);
    live.map(|column| (&*column.name, &*column.type_name, &*column.generated)).collect()
}
