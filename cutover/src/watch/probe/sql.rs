//! A statement's errors and times.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Place;
use super::session::Session;
use crate::login::Login;
use crate::sql::{Kind, SqlError};
use crate::watch::config::SqlConfig;
use crate::watch::sample::{Sample, Timing};

/// How the session calls itself. Not as one of ours: a fence that finds it at work closes it like
/// any client's instead of waiting for it.
const NAME: &str = "watch probe";

/// Runs one statement for the length of a sample.
#[derive(Clone)]
pub struct SqlProbe {
    /// Where, if not directly at the side that serves.
    through: Option<Login>,
    query: String,
    length: Duration,
    every: Duration,
    timeout: Duration,
}

impl std::fmt::Debug for SqlProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlProbe").field("every", &self.every).finish_non_exhaustive()
    }
}

impl SqlProbe {
    /// By the configuration, whose connection string can be parsed.
    pub fn new(config: &SqlConfig) -> Self {
        Self {
            through: config.url.as_deref().and_then(|url| Login::parse(url).ok()),
            query: config.query.clone(),
            length: Duration::from_secs_f64(config.interval_s),
            every: Duration::from_millis(config.every_ms),
            timeout: Duration::from_millis(config.timeout_ms),
        }
    }

    pub(in crate::watch) async fn take(&self, place: &Place) -> Sample {
        let login = self.through.as_ref().unwrap_or(&place.serving);
        let ends = Instant::now() + self.length;
        let (mut times_ms, mut errors, mut first) = (Vec::new(), 0, None);
        let mut session: Option<Session> = None;
        let mut next = Instant::now();
        while next < ends {
            sleep_until(next).await;
            // A slow answer delays the following runs; it is not made up for.
            next = next.max(Instant::now()) + self.every;
            match self.run(login, &mut session).await {
                Ok(took) => times_ms.push(took.as_secs_f64() * 1e3),
                Err(error) => {
                    errors += 1;
                    first.get_or_insert(error.text);
                }
            }
        }
        Sample::Timing(Timing::of(times_ms, errors, first))
    }

    /// Runs it once. After an error the next one gets a new session.
    async fn run(
        &self,
        login: &Login,
        session: &mut Option<Session>,
    ) -> Result<Duration, SqlError> {
        let mut open = match session.take() {
            Some(open) => open,
            None => {
                let deadline = Instant::now() + self.timeout;
                Session::open(login, NAME, Kind::Plain, deadline).await?
            }
        };
        let began = Instant::now();
        open.query(&self.query, began + self.timeout).await?;
        *session = Some(open);
        Ok(began.elapsed())
    }
}
