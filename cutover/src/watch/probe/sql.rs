//! A statement's errors and times.

use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::{Instant, sleep_until};

use super::Place;
use crate::sql::{self, Kind, Sql, SqlError};
use crate::watch::config::SqlConfig;
use crate::watch::sample::{Sample, Timing};

/// How the session calls itself. Not as one of ours: a fence that finds it at work closes it like
/// any client's instead of waiting for it.
const NAME: &str = "watch probe";

/// Runs one statement for the length of a sample.
#[derive(Clone)]
pub struct SqlProbe {
    /// Where, if not directly at the side that serves.
    through: Option<ConnInfo>,
    statement: String,
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
            through: config.url.as_deref().and_then(|url| ConnInfo::parse(url).ok()),
            // One message: also a pooler in transaction mode sends it to one server, and nothing
            // of it stays behind on the connection.
            statement: format!("BEGIN READ ONLY; {}; COMMIT", config.query.trim_end_matches(';')),
            length: Duration::from_secs_f64(config.interval_s),
            every: Duration::from_millis(config.every_ms),
            timeout: Duration::from_millis(config.timeout_ms),
        }
    }

    pub(in crate::watch) async fn take(&self, place: &Place) -> Sample {
        let info = self.through.as_ref().unwrap_or(&place.serving);
        let ends = Instant::now() + self.length;
        let (mut times_ms, mut errors, mut first) = (Vec::new(), 0, None);
        let mut session: Option<Sql> = None;
        let mut next = Instant::now();
        while next < ends {
            sleep_until(next).await;
            // A slow answer delays the following runs; it is not made up for.
            next = next.max(Instant::now()) + self.every;
            match self.run(info, &mut session).await {
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
    async fn run(&self, info: &ConnInfo, session: &mut Option<Sql>) -> Result<Duration, SqlError> {
        let open = match session.take() {
            Some(open) => open,
            None => sql::open(info, NAME, Kind::Plain, Instant::now() + self.timeout).await?,
        };
        let began = Instant::now();
        open.run(&self.statement, began + self.timeout).await?;
        *session = Some(open);
        Ok(began.elapsed())
    }
}
