//! Whether the databases of a target can be written, looked at once more behind the fence: nothing is decided yet, so a
//! run that finds one read-only ends with its source serving.

use decoders::QualifiedName;
use decoders::mysql::catalog;
use decoders::mysql::server::{self, Server, ServerUrl, identifier};

use crate::backfill::mysql::of_catalog;
use crate::config::Config;
use crate::pipeline::Ends;
use crate::pipeline::failure::Failure;

/// # Errors
/// A database of tables that move is read-only on the target, or a server did not answer.
pub(super) async fn ensure(config: &Config, ends: &Ends<ServerUrl>) -> Result<(), Failure> {
    let mut target = server::connect(&ends.target).await?;
    let of_target = Server::read(&mut target).await?;
    let shut = catalog::read_only_databases(&mut target, &of_target).await;
    let shut = shut.map_err(|error| of_catalog("green", error))?;
    if shut.is_empty() {
        return Ok(());
    }
    // Seldom, so only now: it may be a database that does not move.
    let mut source = server::connect(&ends.source).await?;
    let of_source = Server::read(&mut source).await?;
    let database = ends.source.database().or(ends.target.database());
    let tables = catalog::tables(&mut source, &of_source, database, &config.tables).await;
    let tables = tables.map_err(|error| of_catalog("blue", error))?;
    let moves = |name: &QualifiedName| shut.contains(&name.schema);
    let Some(table) = tables.iter().find(|table| moves(&table.name)) else { return Ok(()) };
    let name = identifier(&table.name.schema);
    Err(Failure::halt(
        "green",
        format!("nobody can write in the database {name} of green, which is read-only"),
        format!("ALTER DATABASE {name} READ ONLY = 0 on green, and begin the run again"),
    ))
}
