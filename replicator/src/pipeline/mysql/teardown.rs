//! Removing what a pipeline left. Copied data stays; blue was never written to.

use decoders::mysql::server::{self, Conn, ServerUrl, literal};
use mysql_async::prelude::Queryable;

use super::copying::of_green;
use crate::config::Config;
use crate::pipeline::failure::Failure;
use crate::store::Store;
use crate::verify;

/// Our tables that say whose their rows are.
const BY_PIPELINE: [&str; 4] = ["progress", "stream", "copy_chunks", "copy_notes"];

/// Removes our own tables from green, or the pipeline's rows in them while another pipeline has some,
/// and forgets the pipeline. Doing it twice does no harm.
///
/// # Errors
/// Green can't be asked, or refuses; the state directory is still there then.
pub async fn teardown(config: &Config, green: &ServerUrl) -> Result<Vec<String>, Failure> {
    let mut done = Vec::new();
    // A replicator that runs has its state directory: nothing is taken from under it.
    let store = config.state_dir.exists().then(|| Store::open(&config.state_dir)).transpose()?;
    let mut conn = server::connect(green).await.map_err(of_green)?;
    let failed = |error: mysql_async::Error| {
        of_green(server::failure("removing our own tables from green", error))
    };
    let there = tables(&mut conn).await.map_err(failed)?;
    let pipeline = literal(&config.name);
    let mut others = false;
    // All of them or none: progress without the stream that it is of, or the other way round, would be
    // taken for another state.
    conn.query_drop("START TRANSACTION").await.map_err(failed)?;
    for table in there.iter().filter(|table| BY_PIPELINE.contains(&table.as_str())) {
        let sql = format!("DELETE FROM _cutover.`{table}` WHERE pipeline = {pipeline}");
        conn.query_drop(sql).await.map_err(failed)?;
        let sql = format!("SELECT 1 FROM _cutover.`{table}` LIMIT 1");
        others |= conn.query_first::<u8, _>(sql).await.map_err(failed)?.is_some();
    }
    conn.query_drop("COMMIT").await.map_err(failed)?;
    match (there.is_empty(), others) {
        (true, _) => {}
        (false, true) => done.push("green: the pipeline's rows in _cutover are removed".to_owned()),
        (false, false) => {
            conn.query_drop("DROP DATABASE IF EXISTS _cutover").await.map_err(failed)?;
            done.push("green: database _cutover is removed".to_owned());
        }
    }
    // Last: as long as something is left on green, the state says whose it is.
    if let Some(store) = store {
        store.forget_checkpoint()?;
        store.forget_verification()?;
        verify::forget(&config.state_dir).map_err(|error| {
            let what = format!("{}: {error}", config.state_dir.display());
            Failure::halt("state directory", what, "replicator teardown, again")
        })?;
        store.forget_binlog_stream()?;
        done.push(format!("state directory {}: pipeline forgotten", config.state_dir.display()));
    }
    Ok(done)
}

async fn tables(conn: &mut Conn) -> Result<Vec<String>, mysql_async::Error> {
    let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = '_cutover'";
    conn.query(sql).await
}
