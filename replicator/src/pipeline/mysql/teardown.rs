//! Removing what a pipeline left. Copied data stays.

use cutover::{Direction, Side};
use decoders::SourceError;
use decoders::mysql::server::{self, Conn, ServerUrl, literal};
use mysql_async::prelude::Queryable;

use crate::config::Config;
use crate::pipeline::failure::Failure;
use crate::schema::mysql::restore_collations;
use crate::store::Store;
use crate::verify;

/// Our tables that say whose their rows are.
const BY_PIPELINE: [&str; 10] = [
    "progress",
    "mark",
    "own_mark",
    "stream",
    "definition",
    "prepared",
    "prepared_piece",
    "copy_chunks",
    "copy_notes",
    "lease",
];
/// Who has closed a server, and how it is opened again.
const CLOSED_BY: &str = "fence";

/// Removes our own tables from both servers, or the pipeline's rows in them while another pipeline has
/// some, and forgets the pipeline. What opens a closed server again stays on it. Doing it twice does no
/// harm.
///
/// # Errors
/// A server can't be asked, or refuses; the state directory is still there then.
pub async fn teardown(config: &Config, urls: &[ServerUrl; 2]) -> Result<Vec<String>, Failure> {
    let mut done = Vec::new();
    // A replicator that runs has its state directory: nothing is taken from under it.
    let store = config.state_dir.exists().then(|| Store::open(&config.state_dir)).transpose()?;
    let [blue, green] = urls;
    // What either direction has written, and the leases, which have one name.
    let names = [&config.name, &config.counterpart()].map(|name| literal(name)).join(", ");
    for (side, url) in [(Side::Green, green), (Side::Blue, blue)] {
        for name in [&config.name, &config.counterpart()] {
            done.extend(restore_collations(url, name).await?);
        }
        done.extend(clear(side, url, &names).await.map_err(|error| of_side(side, error))?);
    }
    // Last: as long as something is left on a server, the state says whose it is.
    if let Some(store) = store {
        for direction in Direction::ALL {
            let store = store.towards(direction);
            store.forget_checkpoint()?;
            store.forget_verification()?;
            store.forget_binlog_stream()?;
        }
        verify::forget(&config.state_dir).map_err(|error| {
            let what = format!("{}: {error}", config.state_dir.display());
            Failure::halt("state directory", what, "replicator teardown, again")
        })?;
        done.push(format!("state directory {}: pipeline forgotten", config.state_dir.display()));
    }
    Ok(done)
}

/// What the pipelines of these `names` have left on a side. The markers go with it: another pipeline
/// that reads that side makes their table again when it starts.
async fn clear(side: Side, url: &ServerUrl, names: &str) -> Result<Vec<String>, SourceError> {
    let mut conn = server::connect(url).await?;
    let failed = |error: mysql_async::Error| {
        server::failure(format!("removing our own tables from {side}"), error)
    };
    let there = tables(&mut conn).await.map_err(failed)?;
    let mut others = false;
    // All of them or none: progress without the stream that it is of, or the other way round, would be
    // taken for another state.
    conn.query_drop("START TRANSACTION").await.map_err(failed)?;
    for table in there.iter().filter(|table| BY_PIPELINE.contains(&table.as_str())) {
        let sql = format!("DELETE FROM _cutover.`{table}` WHERE pipeline IN ({names})");
        conn.query_drop(sql).await.map_err(failed)?;
        others |= has_rows(&mut conn, table).await.map_err(failed)?;
    }
    conn.query_drop("COMMIT").await.map_err(failed)?;
    let is_closed = there.iter().any(|table| table == CLOSED_BY)
        && has_rows(&mut conn, CLOSED_BY).await.map_err(failed)?;
    Ok(match (there.is_empty(), others || is_closed) {
        (true, _) => Vec::new(),
        (false, true) if is_closed => vec![format!(
            "{side}: the pipeline's rows in _cutover are removed; {side} stays closed, and what opens \
             it again is in _cutover.{CLOSED_BY}"
        )],
        (false, true) => vec![format!("{side}: the pipeline's rows in _cutover are removed")],
        (false, false) => {
            conn.query_drop("DROP DATABASE IF EXISTS _cutover").await.map_err(failed)?;
            vec![format!("{side}: database _cutover is removed")]
        }
    })
}

async fn has_rows(conn: &mut Conn, table: &str) -> Result<bool, mysql_async::Error> {
    let sql = format!("SELECT 1 FROM _cutover.`{table}` LIMIT 1");
    Ok(conn.query_first::<u8, _>(sql).await?.is_some())
}

async fn tables(conn: &mut Conn) -> Result<Vec<String>, mysql_async::Error> {
    let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = '_cutover'";
    conn.query(sql).await
}

fn of_side(side: Side, error: SourceError) -> Failure {
    Failure { place: side.name().to_owned(), ..Failure::from(error) }
}
