//! SQL over sessions that are opened when they are needed and kept. Everything goes through the
//! simple query protocol: it is one round trip, and PgBouncer's console speaks nothing else.
//! [`mysql`] is the same for MySQL and MariaDB.

pub(crate) mod mysql;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use decoders::postgres::catalog::{quote_ident as ident, quote_literal as literal};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session, connect, connect_plain};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;

use crate::ports::{Nature, PortError, PortResult};

/// How long a cancel request may take: it opens a connection of its own.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// "database is not currently accepting connections".
pub(crate) const DATABASE_CLOSED: &str = "55000";
/// "role is not permitted to log in".
pub(crate) const LOGIN_REFUSED: &str = "28000";

/// A row of text, with its columns' names.
#[derive(Debug, Clone)]
pub(crate) struct TextRow {
    columns: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl TextRow {
    /// Of columns with these names.
    fn new(columns: Arc<[String]>, values: Vec<Option<String>>) -> Self {
        Self { columns, values }
    }

    /// A value by its column's name; no such column, or NULL: `None`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.columns.iter().position(|column| column == name)?;
        self.at(at)
    }

    /// A value by its position.
    pub fn at(&self, at: usize) -> Option<&str> {
        self.values.get(at)?.as_deref()
    }

    /// All values with their columns' names.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let values = self.values.iter().map(Option::as_deref);
        self.columns.iter().map(String::as_str).zip(values)
    }

    /// A boolean: PostgreSQL's `t`, PgBouncer's and MySQL's `1`.
    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some("t" | "1"))
    }

    /// A number. What is not one is an error, never 0.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, SqlError> {
        let value = self.get(name).and_then(|value| value.parse().ok());
        value.ok_or_else(|| SqlError {
            sqlstate: None,
            text: format!("the server's answer has no number in column {name}"),
        })
    }
}

/// A statement failed.
#[derive(Debug)]
pub(crate) struct SqlError {
    /// The server's code, if the server answered.
    pub sqlstate: Option<String>,
    pub text: String,
}

impl SqlError {
    pub fn is(&self, sqlstate: &str) -> bool {
        self.sqlstate.as_deref() == Some(sqlstate)
    }

    /// Whether it is about a table or a schema that does not exist.
    pub fn is_missing(&self) -> bool {
        self.is("42P01") || self.is("3F000")
    }

    /// Whether the statement may have taken effect all the same: no answer came, or one that says
    /// that the connection or the server ended (classes 08 and 57P, and 40003).
    pub fn in_doubt(&self) -> bool {
        match self.sqlstate.as_deref() {
            None => true,
            Some(code) => code.starts_with("08") || code.starts_with("57P") || code == "40003",
        }
    }

    /// As a port's error.
    pub fn at(self, place: &str, doing: &str) -> PortError {
        let error = PortError::new(place, format!("{doing}: {}", self.text));
        if self.in_doubt() { error.in_doubt() } else { error }
    }
}

/// Tells our sessions apart, on whatever server they are: no two of a process have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionNumber(u64);

impl SessionNumber {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// One open session.
pub(crate) struct Sql {
    session: Session,
    number: SessionNumber,
    kind: Kind,
    /// A statement was given up while it ran. Whatever is asked next would queue behind it.
    stuck: AtomicBool,
    /// Our schema was there and ours alone.
    has_seen_house: AtomicBool,
}

/// A statement that runs. Dropped before its answer is here (the caller was cut short), it marks
/// the session as stuck.
struct Running<'a> {
    sql: &'a Sql,
    answered: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.sql.stuck.store(true, Ordering::SeqCst);
        // A cancel request on PgBouncer's console resumes all its databases: not by accident.
        if self.sql.kind == Kind::Server {
            self.sql.cancel();
        }
    }
}

impl Sql {
    /// Rows of all statements in `sql`, in order.
    ///
    /// A statement that is given up - at its deadline, or because the future was dropped - may
    /// still run. The session is not used again after that: see [`Slot::get`].
    pub async fn rows(&self, sql: &str, deadline: Instant) -> Result<Vec<TextRow>, SqlError> {
        let mut running = Running { sql: self, answered: false };
        let answer = tokio::time::timeout_at(deadline, self.session.simple_query(sql));
        let answer = answer.await;
        running.answered = true;
        let messages = match answer {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => {
                let sqlstate = error.code().map(|code| code.code().to_owned());
                let text = session::describe(&error);
                return Err(SqlError { sqlstate, text });
            }
            Err(_) => {
                self.stuck.store(true, Ordering::SeqCst);
                self.cancel();
                let text = "no answer in time".to_owned();
                return Err(SqlError { sqlstate: None, text });
            }
        };
        let mut rows = Vec::new();
        let mut columns: Arc<[String]> = Arc::from([]);
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(described) => {
                    columns = described.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
                    rows.push(TextRow::new(columns.clone(), values));
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// The one row of `sql`.
    pub async fn row(&self, sql: &str, deadline: Instant) -> Result<TextRow, SqlError> {
        let row = self.rows(sql, deadline).await?.into_iter().next_back();
        row.ok_or_else(|| SqlError { sqlstate: None, text: "the server gave no row".into() })
    }

    /// Statements without an answer.
    pub async fn run(&self, sql: &str, deadline: Instant) -> Result<(), SqlError> {
        self.rows(sql, deadline).await.map(|_| ())
    }

    /// `server_version_num`.
    pub fn version_num(&self) -> u32 {
        self.session.server_version()
    }

    /// Whether our schema was there and ours alone when this session looked; that can't change.
    pub fn has_seen_house(&self) -> bool {
        self.has_seen_house.load(Ordering::Relaxed)
    }

    /// Our schema is there and ours alone.
    pub fn sees_house(&self) {
        self.has_seen_house.store(true, Ordering::Relaxed);
    }

    /// Which of our sessions it is.
    pub fn number(&self) -> SessionNumber {
        self.number
    }

    fn is_open(&self) -> bool {
        self.session.closed_reason().is_none() && !self.stuck.load(Ordering::SeqCst)
    }

    /// Asks the server to forget the running statement; whether it does is seen by whoever looks
    /// next. Nobody waits for it: a server that hangs would not let us connect either.
    fn cancel(&self) {
        // No runtime: the process is ending, and our connections with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let canceller = self.session.canceller();
        runtime.spawn(async move {
            match tokio::time::timeout(CANCEL_TIMEOUT, canceller.cancel()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("a cancel request could not be sent: {error}"),
                Err(_) => tracing::debug!("a cancel request could not be sent in time"),
            }
        });
    }
}

/// How a session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With the settings of our own sessions.
    Server,
    /// A pooler: no setting is touched.
    Plain,
}

/// Opens a session.
pub(crate) async fn open(
    info: &ConnInfo,
    name: &str,
    kind: Kind,
    deadline: Instant,
) -> Result<Sql, SqlError> {
    let opening = async {
        match kind {
            Kind::Server => connect(info, name).await,
            Kind::Plain => connect_plain(info, name).await,
        }
    };
    match tokio::time::timeout_at(deadline, opening).await {
        Ok(Ok(session)) => {
            let (stuck, has_seen_house) = (AtomicBool::new(false), AtomicBool::new(false));
            Ok(Sql { session, number: SessionNumber::next(), kind, stuck, has_seen_house })
        }
        Ok(Err(error)) => Err(SqlError {
            sqlstate: error.server_error().map(|server| server.sqlstate.clone()),
            text: format!("can't connect to {}: {error}", info.redacted()),
        }),
        Err(_) => Err(SqlError {
            sqlstate: None,
            text: format!("can't connect to {}: no answer in time", info.redacted()),
        }),
    }
}

/// A session that is opened when it is first needed, and again when it was lost or is stuck.
pub(crate) struct Slot {
    info: ConnInfo,
    name: String,
    place: String,
    kind: Kind,
    session: Mutex<Option<Arc<Sql>>>,
}

impl Slot {
    /// `name` is the session's `application_name`; ours all begin with `cutover`.
    pub fn new(
        info: ConnInfo,
        name: impl Into<String>,
        place: impl Into<String>,
        kind: Kind,
    ) -> Self {
        let (name, place) = (name.into(), place.into());
        Self { info, name, place, kind, session: Mutex::new(None) }
    }

    /// The open session. One that has a statement left that nobody waits for is closed, and
    /// another one takes its place.
    pub async fn get(&self, deadline: Instant) -> PortResult<Arc<Sql>> {
        let mut session = self.session.lock().await;
        if let Some(open) = session.as_ref().filter(|open| open.is_open()) {
            return Ok(open.clone());
        }
        let opened = open(&self.info, &self.name, self.kind, deadline).await.map_err(|error| {
            // Nothing was sent yet but the login.
            let is_closed = error.is(DATABASE_CLOSED);
            let nature = if is_closed { Nature::ClosedDoor } else { Nature::Plain };
            PortError::new(self.place.clone(), error.text).of(nature)
        })?;
        let opened = Arc::new(opened);
        *session = Some(opened.clone());
        Ok(opened)
    }

    /// The session, if it is open now.
    pub async fn current(&self) -> Option<Arc<Sql>> {
        self.session.lock().await.as_ref().filter(|open| open.is_open()).cloned()
    }

    /// Closes the session.
    pub async fn close(&self) {
        *self.session.lock().await = None;
    }
}

/// A deadline for things outside of the window.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}
