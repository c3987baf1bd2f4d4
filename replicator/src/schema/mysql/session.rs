//! Sessions on green in which definitions mean what they mean on blue.

use decoders::mysql::server::{Conn, Server, identifier};
use mysql_async::prelude::Queryable;

use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;

/// Settings that change what a definition means, where the server has them. Those of a MySQL that
/// asks for a primary key, or makes one, would refuse or alter blue's tables.
const SETTINGS: [(&str, &str); 6] = [
    ("foreign_key_checks", "0"),
    ("explicit_defaults_for_timestamp", "1"),
    ("character_set_collations", "''"),
    ("sql_require_primary_key", "0"),
    ("sql_generate_invisible_primary_key", "0"),
    ("show_create_table_skip_secondary_engine", "0"),
];

/// Prepares a session for definitions.
pub(super) async fn used_for_definitions(
    green: &mut Conn,
    server: &Server,
) -> Result<(), BackfillError> {
    let doing = || format!("preparing a session on green ({server})");
    // Zero dates as defaults are allowed; another engine than the one named is not.
    let mode = "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES'";
    green.query_drop(mode).await.map_err(|error| failed(doing(), error))?;
    for (name, value) in SETTINGS {
        let there: Option<(String, String)> = green
            .query_first(format!("SHOW SESSION VARIABLES LIKE '{name}'"))
            .await
            .map_err(|error| failed(doing(), error))?;
        let is_set = |current: &str| match value {
            "0" => current == "OFF",
            "1" => current == "ON",
            _ => current.is_empty(),
        };
        // A setting that is right already needs no privilege.
        if there.is_some_and(|(_, current)| !is_set(&current)) {
            let set = format!("SET SESSION {name} = {value}");
            green.query_drop(set).await.map_err(|error| failed(doing(), error))?;
        }
    }
    Ok(())
}

/// Makes a database the one that unqualified names are in.
pub(super) async fn use_database(conn: &mut Conn, database: &str) -> Result<(), BackfillError> {
    let used = conn.query_drop(format!("USE {}", identifier(database))).await;
    used.map_err(|error| failed(format!("using the database {database:?}"), error))
}
