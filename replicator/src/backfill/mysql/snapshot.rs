//! Several sessions on blue that all see the same moment, and which transactions that moment has.
//!
//! MariaDB ties the moment of `START TRANSACTION WITH CONSISTENT SNAPSHOT` to a place in the binlog
//! without any lock. Sessions that were opened one after the other agree on a quiet server; on a busy
//! one commits are held for the few milliseconds that opening them takes (`BACKUP STAGE BLOCK_COMMIT`).
//!
//! MySQL does not: rows become visible before `gtid_executed` has their transaction, so comparing it
//! before and after proves nothing. Commits are held by FLUSH TABLES WITH READ LOCK, which waits for
//! those that are under way. That statement also waits for statements that run, and everybody waits
//! behind it: it is not attempted while a long one runs, and given up after a second.

use std::time::Duration;

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Conn, Server, ServerUrl, code, literal};
use futures_util::future::{join_all, try_join_all};
use mysql_async::prelude::Queryable;

use super::{failed, of_source};
use crate::backfill::{BackfillError, Cancel, unless_cancelled};

/// How often MariaDB's sessions are opened in the hope that nobody commits meanwhile.
const FREE_ATTEMPTS: usize = 5;
/// How often a copy attempts to hold commits before a person is asked.
const HELD_ATTEMPTS: usize = 30;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(500);
/// A statement that has run for so long makes holding commits too dear, in seconds.
const LONG_STATEMENT_S: u32 = 2;
/// The servers' least.
const LOCK_TIMEOUT_S: u32 = 1;
/// Commits are held for no longer, and a server that hears nothing of us lets them go on after as long:
/// we may be the ones who are lost.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// `Access denied; you need .. privilege`.
const DENIED: [u16; 3] = [1044, 1045, 1227];

/// Sessions that see one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The transactions whose changes the sessions see, all of them and no others.
    pub position: BinlogPosition,
    /// Read-only transactions, each on its own connection.
    pub readers: Vec<Conn>,
}

/// How long a moment is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// Commits may be held many times, with pauses between.
    Long,
    /// Once: somebody is kept waiting meanwhile, and tries again at a better time.
    Once,
}

impl Patience {
    /// Attempts to hold commits.
    fn attempts(self) -> usize {
        match self {
            Patience::Long => HELD_ATTEMPTS,
            Patience::Once => 1,
        }
    }

    /// Between two of them.
    async fn pause(self) {
        if self == Patience::Long {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// None was found.
    fn over(self) -> BackfillError {
        let what = "no moment was found at which all sessions see the same on blue: statements run that are \
                    longer than a second";
        match self {
            Patience::Long => BackfillError::halt(
                what,
                "end them (SHOW PROCESSLIST, KILL QUERY), or begin at a quieter time",
            ),
            Patience::Once => BackfillError::retry(what),
        }
    }
}

/// What every session on blue is set to.
fn settings(server: &Server) -> Vec<String> {
    let mut settings = vec![
        // Bytes as they are stored; names are UTF-8 all the same.
        "SET SESSION character_set_results = NULL, net_write_timeout = 3600".to_owned(),
        // A reader says nothing while chunks of others are brought to its snapshot.
        "SET SESSION wait_timeout = 86400".to_owned(),
        // A bound may be an impossible date: it has to compare as the rows do.
        "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'".to_owned(),
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ".to_owned(),
        // A server may be set to give only the first rows, or to refuse to read many.
        "SET SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1"
            .to_owned(),
    ];
    settings.push(match server.is_mariadb() {
        true => "SET SESSION max_statement_time = 0, idle_transaction_timeout = 0, \
                 idle_readonly_transaction_timeout = 0"
            .to_owned(),
        false => "SET SESSION max_execution_time = 0".to_owned(),
    });
    settings
}

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

fn asked(error: mysql_async::Error) -> BackfillError {
    failed("opening a snapshot on blue", error)
}

/// Opens `sessions` of them. Fewer, if holding commits is not allowed and nothing else helps: one
/// session always agrees with itself.
pub(super) async fn open(
    blue: &ServerUrl,
    server: &Server,
    sessions: usize,
    cancel: &Cancel,
) -> Result<Snapshot, BackfillError> {
    let opening = async {
        let readers = connect(blue, server, sessions).await?;
        at_one_moment(blue, server, readers, Patience::Long).await
    };
    unless_cancelled(cancel, opening).await
}

/// Sessions that are set to read what is stored, without a snapshot yet.
pub(crate) async fn connect(
    url: &ServerUrl,
    server: &Server,
    sessions: usize,
) -> Result<Vec<Conn>, BackfillError> {
    let connect = async || -> Result<Conn, BackfillError> {
        let mut conn = server::connect(url).await.map_err(of_source)?;
        for setting in settings(server) {
            conn.query_drop(setting).await.map_err(asked)?;
        }
        Ok(conn)
    };
    try_join_all((0..sessions.max(1)).map(|_| connect())).await
}

/// Gives these sessions a snapshot of one moment, in place of one that they may have. Fewer may come
/// back, see [`open`].
pub(crate) async fn at_one_moment(
    blue: &ServerUrl,
    server: &Server,
    readers: Vec<Conn>,
    patience: Patience,
) -> Result<Snapshot, BackfillError> {
    match server.is_mariadb() {
        true => of_mariadb(blue, readers, patience).await,
        false => of_mysql(blue, readers, patience).await,
    }
}

/// Begins on all sessions at once. It is one moment only if nobody writes meanwhile.
pub(crate) async fn begin(readers: &mut [Conn]) -> Result<(), BackfillError> {
    let begun = join_all(readers.iter_mut().map(|reader| reader.query_drop(BEGIN))).await;
    begun.into_iter().collect::<Result<(), _>>().map_err(asked)
}

async fn of_mariadb(
    blue: &ServerUrl,
    mut readers: Vec<Conn>,
    patience: Patience,
) -> Result<Snapshot, BackfillError> {
    for _ in 0..FREE_ATTEMPTS {
        begin(&mut readers).await?;
        if let Some(place) = agreed(&mut readers).await? {
            return located(readers, place).await;
        }
    }
    let mut holder = holder(blue).await?;
    for _ in 0..patience.attempts() {
        match hold_mariadb(&mut holder).await {
            Ok(()) => {
                bounded(async {
                    let begun = begin(&mut readers).await;
                    holder.query_drop("BACKUP STAGE END").await.map_err(asked)?;
                    begun
                })
                .await?;
                if let Some(place) = agreed(&mut readers).await? {
                    return located(readers, place).await;
                }
            }
            Err(error) if code(&error).is_some_and(|code| DENIED.contains(&code)) => {
                tracing::warn!(
                    "blue is busy, and the account may not hold commits for a moment (GRANT RELOAD \
                     ON *.*): the copy reads with one session"
                );
                readers.truncate(1);
                begin(&mut readers).await?;
                let place = agreed(&mut readers).await?;
                return match place {
                    Some(place) => located(readers, place).await,
                    None => Err(BackfillError::retry("blue does not say where its snapshot is")),
                };
            }
            Err(error) => {
                tracing::debug!(%error, "commits on blue can't be held now");
                // Whatever it reached; without a stage this is refused, and that is well.
                let _ = holder.query_drop("BACKUP STAGE END").await;
            }
        }
        patience.pause().await;
    }
    Err(patience.over())
}

/// A session that holds commits.
async fn holder(blue: &ServerUrl) -> Result<Conn, BackfillError> {
    let mut holder = server::connect(blue).await.map_err(of_source)?;
    let settings = format!(
        "SET SESSION lock_wait_timeout = {LOCK_TIMEOUT_S}, wait_timeout = {}",
        HOLD_MAX.as_secs()
    );
    holder.query_drop(settings).await.map_err(asked)?;
    Ok(holder)
}

/// What is done while commits are held. The error ends the holder's session, and with it the hold.
async fn bounded<T>(
    doing: impl Future<Output = Result<T, BackfillError>>,
) -> Result<T, BackfillError> {
    let done = tokio::time::timeout(HOLD_MAX, doing).await;
    done.unwrap_or_else(|_| {
        Err(BackfillError::retry(format!(
            "blue did not open its snapshots within {HOLD_MAX:?}: its commits were not held any longer"
        )))
    })
}

async fn hold_mariadb(holder: &mut Conn) -> Result<(), mysql_async::Error> {
    holder.query_drop("BACKUP STAGE START").await?;
    holder.query_drop("BACKUP STAGE BLOCK_COMMIT").await
}

/// The place in the binlog that all sessions show, if it is the same.
async fn agreed(readers: &mut [Conn]) -> Result<Option<(String, u64)>, BackfillError> {
    let mut places = Vec::new();
    for reader in readers {
        let shown: Vec<(String, String)> =
            reader.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await.map_err(asked)?;
        let of = |name: &str| {
            let found = shown.iter().find(|(shown, _)| shown.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        let position = of("binlog_snapshot_position").and_then(|text| text.parse::<u64>().ok());
        let Some(place) = of("binlog_snapshot_file").zip(position) else {
            return Err(BackfillError::halt(
                "blue does not say where its snapshot is (Binlog_snapshot_file)",
                "turn its binlog on (log_bin) and restart it",
            ));
        };
        places.push(place);
    }
    let first = places.first().cloned();
    Ok(first.filter(|first| places.iter().all(|place| place == first)))
}

/// The place as a set of transactions. The server reads its binlog for it, up to the place.
async fn located(
    mut readers: Vec<Conn>,
    (file, offset): (String, u64),
) -> Result<Snapshot, BackfillError> {
    let sql = format!("SELECT BINLOG_GTID_POS({}, {offset})", literal(&file));
    let first = readers.first_mut();
    let first = first.ok_or_else(|| BackfillError::retry("no session to blue is left"))?;
    let text: Option<Option<String>> = first.query_first(sql).await.map_err(asked)?;
    let text = text.flatten().ok_or_else(|| {
        BackfillError::retry(format!("blue does not know its binlog {file} at {offset} any more"))
    })?;
    let position = text.parse().map(BinlogPosition::Mariadb).map_err(|error| {
        BackfillError::halt(format!("blue's position {text:?}: {error}"), "please report it")
    })?;
    Ok(Snapshot { position, readers })
}

async fn of_mysql(
    blue: &ServerUrl,
    mut readers: Vec<Conn>,
    patience: Patience,
) -> Result<Snapshot, BackfillError> {
    let mut holder = holder(blue).await?;
    let mut last = String::new();
    for _ in 0..patience.attempts() {
        if let Some(long) = long_statement(&mut holder).await? {
            last = long;
        } else {
            match holder.query_drop("FLUSH TABLES WITH READ LOCK").await {
                Ok(()) => {
                    let text = bounded(async {
                        let begun = begin(&mut readers).await;
                        let executed: Result<Option<String>, _> =
                            holder.query_first("SELECT @@GLOBAL.gtid_executed").await;
                        holder.query_drop("UNLOCK TABLES").await.map_err(asked)?;
                        begun?;
                        Ok(executed.map_err(asked)?.unwrap_or_default())
                    })
                    .await?;
                    let position = text.parse().map(BinlogPosition::Mysql).map_err(|error| {
                        BackfillError::halt(
                            format!("blue's gtid_executed {text:?}: {error}"),
                            "please report it",
                        )
                    })?;
                    return Ok(Snapshot { position, readers });
                }
                Err(error) if code(&error).is_some_and(|code| DENIED.contains(&code)) => {
                    return Err(failed("holding commits on blue for a moment", error)
                        .or_remedy("grant it: GRANT RELOAD ON *.* (or FLUSH_TABLES)"));
                }
                Err(error) => last = server::describe(&error),
            }
        }
        patience.pause().await;
    }
    tracing::warn!(last, "no snapshot");
    Err(patience.over())
}

/// A statement behind which a lock would make everybody wait. Not from MySQL's
/// `information_schema.processlist`, which can't be read while a statement with a character of four bytes runs
/// (error 3854). Without the statement's text, which may hold values.
async fn long_statement(holder: &mut Conn) -> Result<Option<String>, BackfillError> {
    let sql = format!(
        "SELECT id, time FROM performance_schema.processlist
         WHERE id <> connection_id() AND time >= {LONG_STATEMENT_S}
           AND command IN ('Query', 'Execute')
         ORDER BY time DESC LIMIT 1"
    );
    let row: Option<(u64, i64)> = holder.query_first(sql).await.map_err(asked)?;
    Ok(row.map(|(id, time)| format!("connection {id} runs a statement since {time} s")))
}
