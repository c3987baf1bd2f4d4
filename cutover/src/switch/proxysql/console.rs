//! A session on the admin interface: opened when it is needed, again when it was lost.

use decoders::mysql::server::ServerUrl;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::ports::{PortError, PortResult};
use crate::sql::TextRow;
use crate::sql::mysql::MysqlSession;

/// What ProxySQL answers to `KILL CONNECTION` of a session that has gone.
const GONE: &str = "Unknown thread id";

/// One member's admin interface.
pub(super) struct Console {
    url: ServerUrl,
    place: String,
    session: Mutex<Option<MysqlSession>>,
}

impl Console {
    /// Of the member with this name.
    pub fn new(url: ServerUrl, place: String) -> Self {
        Self { url, place, session: Mutex::new(None) }
    }

    async fn take(&self, deadline: Instant) -> PortResult<MysqlSession> {
        let kept = self.session.lock().await.take();
        if let Some(mut open) = kept
            && open.is_alive(deadline).await
        {
            return Ok(open);
        }
        MysqlSession::open_console(&self.url, deadline).await.map_err(|error| {
            PortError::new(self.place.clone(), error.text).remedy(
                "is it up, and may this account use its admin interface from here? (`admin` itself \
                 may from its own host only: add another one to admin-admin_credentials)",
            )
        })
    }

    /// The rows that a statement answers with.
    pub async fn rows(&self, sql: &str, deadline: Instant) -> PortResult<Vec<TextRow>> {
        let mut session = self.take(deadline).await?;
        let answer = session.run(sql, deadline).await;
        if session.is_open() {
            *self.session.lock().await = Some(session);
        }
        match answer {
            Ok(answer) => Ok(answer.rows),
            Err(error) => Err(error.at(&self.place, sql)),
        }
    }

    /// The rows of a table that not every version has.
    pub async fn rows_if_there(&self, table: &str, deadline: Instant) -> PortResult<Vec<TextRow>> {
        match self.rows(&format!("SELECT * FROM {table}"), deadline).await {
            Err(error) if error.what.contains("no such table") => Ok(Vec::new()),
            answer => answer,
        }
    }

    /// Tells it something.
    pub async fn run(&self, sql: &str, deadline: Instant) -> PortResult<()> {
        self.rows(sql, deadline).await.map(|_| ())
    }

    /// Ends a client's session, if it is there still.
    pub async fn kill(&self, session: u64, deadline: Instant) -> PortResult<()> {
        match self.run(&format!("KILL CONNECTION {session}"), deadline).await {
            Err(error) if error.what.contains(GONE) => Ok(()),
            answer => answer,
        }
    }
}
