//! A session of our own on a side, for what a client's session can't be asked itself: what servers
//! store of accounts, and on MySQL user variables and locks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decoders::mysql::server::ServerUrl;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::proxy::lock;
use crate::sql::TextRow;
use crate::sql::mysql::{MysqlError, MysqlSession};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long variables of the server are believed.
const REMEMBERED: Duration = Duration::from_secs(2);

/// Names and values of variables.
pub(super) type Variables = HashMap<String, String>;

/// Whom somebody waits to hear about, and where to tell.
type Waiting = (u32, oneshot::Sender<Option<Ties>>);

/// What ties a session of MySQL's to its server and only the server's own tables tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ties {
    pub variables: bool,
    /// `GET_LOCK`.
    pub named_locks: bool,
    /// Any lock that neither a statement's nor a transaction's end lets go.
    pub locks: bool,
}

/// See the module.
pub(super) struct Desk {
    url: ServerUrl,
    /// 0: not known yet, 1: MySQL, 2: MariaDB.
    family: AtomicU8,
    session: tokio::sync::Mutex<Option<MysqlSession>>,
    waiting: Mutex<Vec<Waiting>>,
    defaults: tokio::sync::Mutex<Option<(Instant, Arc<Variables>)>>,
}

impl Desk {
    pub fn new(url: ServerUrl) -> Self {
        Self {
            url,
            family: AtomicU8::new(0),
            session: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            defaults: tokio::sync::Mutex::default(),
        }
    }

    /// A server has said what it is.
    pub fn seen(&self, is_mariadb: bool) {
        self.family.store(1 + u8::from(is_mariadb), Ordering::Relaxed);
    }

    /// Whether this side is MariaDB, as its last greeting has said.
    pub fn is_mariadb(&self) -> bool {
        self.family.load(Ordering::Relaxed) == 2
    }

    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn rows(&self, sql: &str) -> Result<Vec<TextRow>, String> {
        let mut session = self.session.lock().await;
        self.ask(&mut session, sql).await
    }

    /// In the session that is open, or in another one.
    async fn ask(
        &self,
        session: &mut Option<MysqlSession>,
        sql: &str,
    ) -> Result<Vec<TextRow>, String> {
        let until = Instant::now() + ANSWER_MAX;
        let shown = |error: MysqlError| error.text;
        // Whoever no longer waits for an answer leaves no session behind in which it may still come.
        if let Some(mut open) = session.take() {
            match open.run(sql, until).await {
                Ok(answer) => {
                    *session = Some(open);
                    return Ok(answer.rows);
                }
                Err(error) if error.code.is_some() => {
                    *session = Some(open);
                    return Err(error.text);
                }
                Err(_) => {}
            }
        }
        let mut fresh = MysqlSession::open(&self.url, until).await.map_err(shown)?;
        let rows = fresh.run(sql, until).await.map_err(shown)?.rows;
        *session = Some(fresh);
        Ok(rows)
    }

    /// What ties the session of this number (MySQL). Whoever is first asks for all that wait; each is
    /// at rest since before the question. `None`: nobody can tell.
    pub async fn ties(&self, id: u32) -> Option<Ties> {
        let (tell, mut told) = oneshot::channel();
        lock(&self.waiting).push((id, tell));
        let mut session = self.session.lock().await;
        if let Ok(ties) = told.try_recv() {
            return ties;
        }
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        let ids: Vec<_> = waiting.iter().map(|(id, _)| id.to_string()).collect();
        let sql = format!(
            "SELECT t.processlist_id AS id, \
               EXISTS (SELECT 1 FROM performance_schema.user_variables_by_thread v \
                       WHERE v.thread_id = t.thread_id) AS variables, \
               EXISTS (SELECT 1 FROM performance_schema.metadata_locks l \
                       WHERE l.owner_thread_id = t.thread_id \
                         AND l.lock_duration = 'EXPLICIT') AS locks, \
               EXISTS (SELECT 1 FROM performance_schema.metadata_locks l \
                       WHERE l.owner_thread_id = t.thread_id \
                         AND l.object_type = 'USER LEVEL LOCK') AS named_locks \
             FROM performance_schema.threads t \
             WHERE t.processlist_id IN ({}) \
               AND (SELECT count(*) FROM performance_schema.setup_instruments \
                    WHERE name = 'wait/lock/metadata/sql/mdl' AND enabled = 'YES') = 1",
            ids.join(",")
        );
        let mut found = HashMap::new();
        match self.ask(&mut session, &sql).await {
            Ok(rows) => {
                for row in rows {
                    let ties = Ties {
                        variables: row.is_true("variables"),
                        named_locks: row.is_true("named_locks"),
                        locks: row.is_true("locks"),
                    };
                    if let Ok(id) = row.number::<u32>("id") {
                        found.insert(id, ties);
                    }
                }
            }
            Err(why) => tracing::debug!("what ties sessions can't be asked: {why}"),
        }
        for (id, tell) in waiting {
            if tell.send(found.get(&id).copied()).is_err() {
                tracing::trace!("session {id} no longer waits for its ties");
            }
        }
        drop(session);
        told.await.ok().flatten()
    }

    /// What the variables that each session has are worth in one that has set none.
    ///
    /// # Errors
    /// Why they are not known.
    pub async fn defaults(&self) -> Result<Arc<Variables>, String> {
        let mut kept = self.defaults.lock().await;
        if let Some((until, variables)) = &*kept
            && Instant::now() < *until
        {
            return Ok(variables.clone());
        }
        // What has no global value is as in our own session, which sets only what has one.
        let sql = match self.is_mariadb() {
            true => {
                "SELECT lower(variable_name), coalesce(global_value, session_value) \
                     FROM information_schema.system_variables \
                     WHERE variable_scope <> 'GLOBAL' AND read_only = 'NO'"
            }
            false => {
                "SELECT s.variable_name, coalesce(g.variable_value, s.variable_value) \
                      FROM performance_schema.threads t \
                      JOIN performance_schema.variables_by_thread s USING (thread_id) \
                      LEFT JOIN performance_schema.global_variables g \
                        ON g.variable_name = s.variable_name \
                      WHERE t.processlist_id = connection_id()"
            }
        };
        let mut variables = Variables::new();
        for row in self.rows(sql).await? {
            if let (Some(name), Some(value)) = (row.at(0), row.at(1)) {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        if variables.is_empty() {
            return Err("the server does not say which settings there are".into());
        }
        let variables = Arc::new(variables);
        *kept = Some((Instant::now() + REMEMBERED, variables.clone()));
        Ok(variables)
    }
}
