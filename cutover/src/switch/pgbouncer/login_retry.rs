//! `server_login_retry`: what PgBouncer takes for a failed login must not keep clients waiting when
//! the pause is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::member::Bouncer;
use crate::ports::{PortError, PortResult};
use crate::sql::TextRow;

/// For how long PgBouncer tries failed logins again at once after a RESUME, and how soon, in
/// seconds.
const HASTEN_FOR: Duration = Duration::from_secs(2);
const LOGIN_RETRY_S: f64 = 0.1;
/// How long it may take to tell it so.
const HASTEN_MAX: Duration = Duration::from_secs(1);
/// How long it is left at that while clients wait, and how often they are looked for.
const CALM_MAX: Duration = Duration::from_secs(30);
const CALM_LOOK: Duration = Duration::from_millis(200);

impl Bouncer {
    /// Sees to it that nobody waits for `server_login_retry`.
    ///
    /// Who connects between RELOAD and RESUME makes PgBouncer open a server connection although the
    /// database is paused; it closes that at once, takes it for a login that failed, and lets all
    /// clients wait for 15 s (seen on 1.18). So failed logins are tried again at once for a moment.
    /// Clients are served either way: what goes wrong here is only told.
    pub(super) async fn hasten(self: &Arc<Self>) {
        let deadline = Instant::now() + HASTEN_MAX;
        let lowered = async {
            let console = self.console.get(deadline).await?;
            let config = console.rows("SHOW CONFIG", deadline).await;
            let config = config.map_err(self.failed("SHOW CONFIG"))?;
            let row = config.iter().find(|row| row.get("key") == Some("server_login_retry"));
            let Some(value) = row.and_then(|row| row.get("value")) else { return Ok(None) };
            if value.parse::<f64>().is_ok_and(|seconds| seconds < LOGIN_RETRY_S) {
                return Ok(None);
            }
            let value = value.to_owned();
            let set = format!("SET server_login_retry = '{LOGIN_RETRY_S}'");
            console.run(&set, deadline).await.map_err(self.failed(&set))?;
            Ok::<_, PortError>(Some(value))
        };
        match lowered.await {
            Ok(None) => {}
            Ok(Some(value)) => {
                let this = Arc::clone(self);
                let turn = this.hastened.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(async move {
                    tokio::time::sleep(HASTEN_FOR).await;
                    // Another RESUME since then sees to it itself.
                    if this.hastened.load(Ordering::SeqCst) == turn {
                        this.calm(&value).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(member = %self.name, "server_login_retry stays as it is: {error}");
            }
        }
    }

    /// Back to what it was once nobody waits; if that was left so low by a process that has died, to
    /// the file's.
    async fn calm(&self, before: &str) {
        let until = Instant::now() + CALM_MAX;
        while Instant::now() < until && self.waiting().await.is_ok_and(|waiting| waiting > 0) {
            tokio::time::sleep(CALM_LOOK).await;
        }
        let deadline = Instant::now() + HASTEN_MAX;
        let low = before.parse::<f64>().is_ok_and(|seconds| seconds <= LOGIN_RETRY_S);
        let back = match low {
            true => "RELOAD".to_owned(),
            false => format!("SET server_login_retry = '{before}'"),
        };
        let restored = async {
            let console = self.console.get(deadline).await?;
            console.run(&back, deadline).await.map_err(self.failed(&back))
        };
        if let Err(error) = restored.await {
            tracing::warn!(
                member = %self.name,
                "server_login_retry stays at {LOGIN_RETRY_S} s until its next RELOAD: {error}"
            );
        }
    }

    /// Clients that wait for a server connection.
    async fn waiting(&self) -> PortResult<u64> {
        let deadline = Instant::now() + HASTEN_MAX;
        let console = self.console.get(deadline).await?;
        let pools = console.rows("SHOW POOLS", deadline).await;
        let pools = pools.map_err(self.failed("SHOW POOLS"))?;
        let ours = |row: &&TextRow| {
            row.get("database").is_some_and(|name| self.databases.iter().any(|ours| ours == name))
        };
        let waiting = |row: &TextRow| row.get("cl_waiting")?.parse::<u64>().ok();
        Ok(pools.iter().filter(ours).filter_map(waiting).sum())
    }
}
