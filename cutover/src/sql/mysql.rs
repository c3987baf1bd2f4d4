//! SQL on MySQL and MariaDB: sessions of the fence, the lease, the decision and the sequences.

use std::sync::Arc;
use std::time::Duration;

pub(crate) use decoders::mysql::server::{ServerUrl, literal};
use decoders::mysql::server::{code, connect, connect_to_console, describe};
use decoders::source::SourceError;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{SessionNumber, SqlError, TextRow};
use crate::ports::{Nature, PortError, PortResult};

/// How long it may take to end a session whose statement was given up: it takes another one.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long our statements queue for somebody else's lock, in seconds; who waits longer asks again.
const LOCK_WAIT_S: u32 = 5;

/// After how long without a statement our sessions end, in seconds: the servers' own default, which
/// theirs may be far below.
const WAIT_TIMEOUT_S: u32 = 28_800;
/// A session that has rested for longer has to answer before it is used.
const RESTED: Duration = Duration::from_secs(1);

/// Between two tries at a lock of the server.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// What the session changes is about this server only: its replicas don't hear of it.
pub(crate) const UNLOGGED: &str = "SET SESSION sql_log_bin = 0";

/// ER_NO_SUCH_THREAD.
pub(crate) const NO_SUCH_SESSION: u16 = 1094;
/// ER_LOCK_WAIT_TIMEOUT.
pub(crate) const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// "The server is currently in offline mode" (ER_SERVER_OFFLINE_MODE).
const OFFLINE: u16 = 3032;
/// "Account is locked" (ER_ACCOUNT_HAS_BEEN_LOCKED): of MySQL and of MariaDB.
const ACCOUNT_LOCKED: [u16; 2] = [3118, 4151];
/// Our own database: made only where it is missing, for the statement is logged even if it changes
/// nothing.
const HAS_SCHEMA: &str = "SELECT 1 FROM information_schema.schemata WHERE schema_name = '_cutover'";
const CREATE_SCHEMA: &str = "CREATE DATABASE IF NOT EXISTS _cutover";
/// No such table, no such database.
const MISSING: [u16; 2] = [1146, 1049];
/// Errors after which the statement may have taken effect all the same: the server shuts down, the
/// statement or the session was killed (1053, 1317, 1927, 3024, 3169).
const IN_DOUBT: [u16; 5] = [1053, 1317, 1927, 3024, 3169];
/// Errors that are a session's last answer: the server shuts down, the session was killed, or has rested
/// for too long.
const LAST_WORDS: [u16; 3] = [1053, 1927, 4031];

/// What a statement has come to.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub rows: Vec<TextRow>,
    /// Rows that it has altered.
    pub affected: u64,
}

/// A statement failed.
#[derive(Debug)]
pub(crate) struct MysqlError {
    /// The server's number, if the server answered.
    pub code: Option<u16>,
    pub text: String,
}

impl MysqlError {
    fn silent(text: impl Into<String>) -> Self {
        Self { code: None, text: text.into() }
    }

    pub fn is(&self, code: u16) -> bool {
        self.code == Some(code)
    }

    /// Whether it is about a table or a database that does not exist.
    pub fn is_missing(&self) -> bool {
        self.code.is_some_and(|code| MISSING.contains(&code))
    }

    /// Whether the statement may have taken effect all the same.
    pub fn in_doubt(&self) -> bool {
        self.code.is_none_or(|code| IN_DOUBT.contains(&code))
    }

    /// As a port's error.
    pub fn at(self, place: &str, doing: &str) -> PortError {
        let error = PortError::new(place, format!("{doing}: {}", self.text));
        if self.in_doubt() { error.in_doubt() } else { error }
    }
}

impl From<Error> for MysqlError {
    fn from(error: Error) -> Self {
        Self { code: code(&error), text: describe(&error) }
    }
}

impl From<MysqlError> for SqlError {
    /// The server's number stands for its code: no code of PostgreSQL's looks like one.
    fn from(error: MysqlError) -> Self {
        Self { sqlstate: error.code.map(|code| code.to_string()), text: error.text }
    }
}

impl From<SqlError> for MysqlError {
    /// Of a row's column.
    fn from(error: SqlError) -> Self {
        Self::silent(error.text)
    }
}

/// One session, for one user at a time.
pub(crate) struct MysqlSession {
    conn: Option<Conn>,
    url: ServerUrl,
    number: SessionNumber,
    id: u32,
    /// When it has last answered.
    answered: Instant,
    /// A router's console, whose sessions `KILL` does not know.
    is_console: bool,
}

/// A statement that runs. Dropped before its answer is here, it ends the session.
struct Running<'a> {
    session: &'a mut MysqlSession,
    conn: Option<Conn>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn);
            self.session.kill();
        }
    }
}

impl MysqlSession {
    /// Opens one. Its statements wait for locks for seconds only, see only what is committed, and
    /// refuse what does not fit.
    pub async fn open(url: &ServerUrl, deadline: Instant) -> Result<Self, MysqlError> {
        let opening = async {
            let mut conn = connect(url).await.map_err(refused)?;
            let settings = format!(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES', autocommit = 1, \
                 lock_wait_timeout = {LOCK_WAIT_S}, innodb_lock_wait_timeout = {LOCK_WAIT_S}, \
                 wait_timeout = {WAIT_TIMEOUT_S}"
            );
            conn.query_drop(settings).await?;
            conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
            // A session is read-only by default where the server's sessions are.
            conn.query_drop("SET SESSION TRANSACTION READ WRITE").await?;
            Ok(Self::over(conn, url, false))
        };
        by(deadline, url, opening).await
    }

    /// Opens one on a router's console, which knows neither settings nor isolation.
    pub async fn open_console(url: &ServerUrl, deadline: Instant) -> Result<Self, MysqlError> {
        let opening = async {
            let conn = connect_to_console(url).await.map_err(refused)?;
            Ok(Self::over(conn, url, true))
        };
        by(deadline, url, opening).await
    }

    fn over(conn: Conn, url: &ServerUrl, is_console: bool) -> Self {
        let (number, id) = (SessionNumber::next(), conn.id());
        let (url, answered) = (url.clone(), Instant::now());
        Self { conn: Some(conn), url, number, id, answered, is_console }
    }

    /// Which of our sessions it is.
    pub fn number(&self) -> SessionNumber {
        self.number
    }

    /// The number that the server knows it by.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn is_open(&self) -> bool {
        self.conn.is_some()
    }

    /// Whether the server still has it, and says so soon: another one is opened faster than a slow one
    /// is waited for.
    pub async fn is_alive(&mut self, deadline: Instant) -> bool {
        self.ask(deadline.min(Instant::now() + RESTED)).await.is_ok()
    }

    /// Asks the server whether it still has it, if it has rested.
    pub async fn ask(&mut self, deadline: Instant) -> Result<(), MysqlError> {
        if self.is_open() && self.answered.elapsed() < RESTED {
            return Ok(());
        }
        // As short as it gets where SQLite answers, too.
        self.run("SELECT 1", deadline).await.map(|_| ())
    }

    /// Runs one statement.
    ///
    /// One that is given up - at its deadline, or because the future was dropped - may still run; the
    /// server is asked to end the session, which is not used again.
    pub async fn run(&mut self, sql: &str, deadline: Instant) -> Result<Answer, MysqlError> {
        let Some(conn) = self.conn.take() else {
            return Err(MysqlError::silent("the session has ended"));
        };
        let mut running = Running { session: self, conn: Some(conn) };
        let answering = async {
            let Some(conn) = running.conn.as_mut() else { return Ok(Answer::default()) };
            let mut result = conn.query_iter(sql).await?;
            let columns: Arc<[String]> =
                result.columns_ref().iter().map(|column| column.name_str().into()).collect();
            let rows: Vec<Row> = result.collect().await?;
            let affected = result.affected_rows();
            result.drop_result().await?;
            let rows = rows.into_iter().map(|row| text_row(columns.clone(), row)).collect();
            Ok(Answer { rows, affected })
        };
        let answer: Result<Answer, Error> = match tokio::time::timeout_at(deadline, answering).await
        {
            Ok(answer) => answer,
            Err(_) => return Err(MysqlError::silent("no answer in time")),
        };
        let conn = running.conn.take();
        drop(running);
        match answer {
            Ok(answer) => {
                self.conn = conn;
                self.answered = Instant::now();
                Ok(answer)
            }
            Err(error) => {
                // Where the server answered, the session is as it was.
                let is_answer = matches!(error, Error::Server(_));
                let error = MysqlError::from(error);
                if is_answer && !error.code.is_some_and(|code| LAST_WORDS.contains(&code)) {
                    self.conn = conn;
                    self.answered = Instant::now();
                }
                Err(error)
            }
        }
    }

    /// The one row of `sql`.
    pub async fn row(&mut self, sql: &str, deadline: Instant) -> Result<TextRow, MysqlError> {
        let row = self.run(sql, deadline).await?.rows.into_iter().next_back();
        row.ok_or_else(|| MysqlError::silent("the server gave no row"))
    }

    /// Takes a lock of the server. It goes with the session, and who has it already has it twice.
    /// `ends_holder`: the session that has it is ended instead of waited for.
    pub async fn hold(
        &mut self,
        lock: &str,
        ends_holder: bool,
        place: &str,
        doing: &str,
        deadline: Instant,
    ) -> PortResult<()> {
        let lock = literal(lock);
        let take = format!("SELECT get_lock({lock}, 0) AS got, is_used_lock({lock}) AS id");
        loop {
            let row = self.row(&take, deadline).await.map_err(|error| error.at(place, doing))?;
            if row.is_true("got") {
                return Ok(());
            }
            let holder = row.get("id").unwrap_or("unknown").to_owned();
            if Instant::now() + LOCK_PAUSE >= deadline {
                return Err(PortError::new(
                    place,
                    format!("{doing}: session {holder} on {place} does that, and does not end"),
                )
                .remedy(format!("KILL {holder} on {place}, if it is of a sidecar that has died")));
            }
            if ends_holder && row.get("id").is_some() {
                match self.run(&format!("KILL {holder}"), deadline).await {
                    Ok(_) => {}
                    // It has gone by now.
                    Err(error) if error.is(NO_SUCH_SESSION) => {}
                    Err(error) => return Err(error.at(place, doing)),
                }
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Lets go of it.
    pub async fn let_go(&mut self, lock: &str, deadline: Instant) -> Result<(), MysqlError> {
        self.run(&format!("DO release_lock({})", literal(lock)), deadline).await.map(|_| ())
    }

    /// Asks the server to end this session, from another one. Nobody waits for it: whoever has to
    /// know looks.
    fn kill(&self) {
        if self.is_console {
            return;
        }
        // No runtime: the process is ending, and our connections with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (url, id) = (self.url.clone(), self.id);
        runtime.spawn(async move {
            let killing = async {
                let mut conn = connect(&url).await.map_err(|error| error.message)?;
                let killed = conn.query_drop(format!("KILL {id}")).await;
                killed.map_err(|error| describe(&error))
            };
            match tokio::time::timeout(KILL_TIMEOUT, killing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("session {id} could not be ended: {error}"),
                Err(_) => tracing::debug!("session {id} could not be ended in time"),
            }
        });
    }
}

/// Why a connection was not opened.
fn refused(error: SourceError) -> MysqlError {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<Error>());
    MysqlError { code: cause.and_then(code), text: error.message.clone() }
}

/// What comes of opening a session by then.
async fn by<T>(
    deadline: Instant,
    url: &ServerUrl,
    opening: impl Future<Output = Result<T, MysqlError>>,
) -> Result<T, MysqlError> {
    match tokio::time::timeout_at(deadline, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(MysqlError::silent(format!("cannot connect to {url}: no answer in time"))),
    }
}

fn text_row(columns: Arc<[String]>, row: Row) -> TextRow {
    let text = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        // The text protocol has no others.
        other => Some(other.as_sql(true)),
    };
    TextRow::new(columns, row.unwrap().into_iter().map(text).collect())
}

/// A session that is opened when it is first needed, and again when it was lost.
pub(crate) struct MysqlSlot {
    url: ServerUrl,
    place: &'static str,
    session: Mutex<Option<MysqlSession>>,
}

impl MysqlSlot {
    pub fn new(url: ServerUrl, place: &'static str) -> Self {
        Self { url, place, session: Mutex::new(None) }
    }

    /// Takes the session out, or opens one; [`MysqlSlot::put`] gives it back.
    pub async fn take(&self, deadline: Instant) -> PortResult<MysqlSession> {
        let kept = self.session.lock().await.take();
        if let Some(mut open) = kept
            && open.is_alive(deadline).await
        {
            return Ok(open);
        }
        MysqlSession::open(&self.url, deadline).await.map_err(|error| {
            let closed = [OFFLINE, ACCOUNT_LOCKED[0], ACCOUNT_LOCKED[1]];
            let is_closed = error.code.is_some_and(|code| closed.contains(&code));
            let nature = if is_closed { Nature::ClosedDoor } else { Nature::Plain };
            // Nothing was sent yet but the login.
            PortError::new(self.place, error.text).of(nature)
        })
    }

    /// Takes out this session, if it is the one that is kept.
    pub async fn take_kept(&self, number: SessionNumber) -> Option<MysqlSession> {
        self.session.lock().await.take_if(|kept| kept.number == number)
    }

    /// Keeps a session for whoever comes next.
    pub async fn put(&self, session: MysqlSession) {
        if session.is_open() {
            *self.session.lock().await = Some(session);
        }
    }

    /// Runs one statement.
    pub async fn run(&self, sql: &str, doing: &str, deadline: Instant) -> PortResult<Answer> {
        self.try_run(sql, deadline).await?.map_err(|error| error.at(self.place, doing))
    }

    /// The same, for who looks at the server's error.
    pub async fn try_run(
        &self,
        sql: &str,
        deadline: Instant,
    ) -> PortResult<Result<Answer, MysqlError>> {
        let mut session = self.take(deadline).await?;
        let answer = session.run(sql, deadline).await;
        self.put(session).await;
        Ok(answer)
    }

    /// Makes a table of ours where it is missing; `create` is its statement.
    pub async fn ensure(
        &self,
        table: &str,
        create: &str,
        doing: &str,
        deadline: Instant,
    ) -> PortResult<()> {
        let there = format!("SELECT 1 FROM _cutover.{table} LIMIT 0");
        match self.try_run(&there, deadline).await? {
            Ok(_) => return Ok(()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.at(self.place, doing)),
        }
        if self.run(HAS_SCHEMA, doing, deadline).await?.rows.is_empty() {
            self.run(CREATE_SCHEMA, doing, deadline).await?;
        }
        self.run(create, doing, deadline).await.map(|_| ())
    }

    /// Closes the session.
    pub async fn close(&self) {
        *self.session.lock().await = None;
    }
}
