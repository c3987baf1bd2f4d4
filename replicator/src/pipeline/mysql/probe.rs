//! Whether a server answers, on a session of its own: a stuck stream can't blind it.

use std::time::Duration;

use decoders::SourceError;
use decoders::mysql::server::{self, Conn, Server, ServerUrl};
use mysql_async::prelude::Queryable;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between questions, and between attempts to connect.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells `seen` of a server's version, or that it does not answer, for as long as it is polled; and
/// `opened` of its sessions, and `expires` of the time after which it removes a binlog, seconds.
pub async fn watch_server(
    url: ServerUrl,
    opened: impl Fn(&Conn),
    seen: impl Fn(Option<&str>, bool),
    expires: impl Fn(Option<u64>),
) {
    loop {
        let _unanswered = ask(&url, &opened, &seen, &expires).await;
        seen(None, false);
        sleep(INTERVAL).await;
    }
}

async fn ask(
    url: &ServerUrl,
    opened: &impl Fn(&Conn),
    seen: &impl Fn(Option<&str>, bool),
    expires: &impl Fn(Option<u64>),
) -> Result<std::convert::Infallible, SourceError> {
    let silent = |_| SourceError::retry("no answer");
    let mut conn = timeout(ANSWER_TIMEOUT, server::connect(url)).await.map_err(silent)??;
    opened(&conn);
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let server = timeout(ANSWER_TIMEOUT, Server::read(&mut conn)).await.map_err(silent)??;
        seen(Some(&server.version), true);
        expires(timeout(ANSWER_TIMEOUT, expiry(&mut conn)).await.map_err(silent)?);
    }
}

/// `None`: the server does not say, or not in seconds (MariaDB before 10.6).
async fn expiry(conn: &mut Conn) -> Option<u64> {
    let seconds = conn.query_first("SELECT @@GLOBAL.binlog_expire_logs_seconds").await;
    seconds.ok().flatten()
}
