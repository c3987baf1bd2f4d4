//! Reading PostgreSQL's catalogs, versions 10 to 18: what is there, not what to make of it.
//!
//! Every reader is a fixed handful of queries whatever the number of objects, takes no lock that
//! could wait, and works with the rights of an ordinary role. Readers first empty the session's
//! `search_path`, as pg_dump does, so that type names come out schema-qualified
//! and no function of a user's schema is called in place of a system one.
//!
//! Left out everywhere: system schemas, the engine's schema `_cutover`, temporary objects, and
//! what belongs to an extension (`pg_depend.deptype = 'e'`), which CREATE EXTENSION makes.

mod attached;
mod column;
mod database;
mod error;
mod filter;
mod index;
mod object;
mod record;
mod sequence;
mod server;
mod shape;
mod table;
mod user_type;

use tokio_postgres::Client;

pub use super::ident::{quote_identifier as quote_ident, quote_literal};
pub use attached::{Firing, ForeignKey, Rule, Trigger};
pub use column::{ColumnInfo, Identity, TypeKind};
pub use database::{
    EventTrigger, Extension, LargeObjects, Publication, Role, Subscription, available_extensions,
    event_triggers, extensions, large_objects, publications, referenced_roles, role_names,
    schema_names, subscriptions, tablespace_names,
};
pub use error::{CatalogError, describe};
pub use filter::{CONTROL_SCHEMA, ParsePatternError, TableFilter, TablePattern, is_system_schema};
pub use index::{MissingIdentity, ResolvedIdentity, UniqueIndex, resolve_identity};
pub use object::{Relation, RelationKind, relations};
pub use record::{ColumnRecord, ParentRecord, RelationRecord, relation_records};
pub use sequence::{SequenceInfo, SequenceValue, sequence_values, sequences};
pub use server::{Locale, Provider, RoleInfo, ServerInfo, Setting, WANTED_SETTINGS};
pub use shape::{TableShape, table_shapes};
pub use table::{Persistence, TableAccess, TableInfo, TableKind, tables};
pub use user_type::{TypeDetail, UserType, user_types};

use table::candidates;

/// Makes name resolution and type names independent of the session's `search_path`.
pub async fn pin_search_path(client: &Client) -> Result<(), CatalogError> {
    client
        .query("SELECT set_config('search_path', '', false)", &[])
        .await
        .map(drop)
        .map_err(|error| CatalogError::query("anything", error))
}
