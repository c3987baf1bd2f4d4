//! The preflight of a configured pipeline: connects, looks for pg_dump, and asks [`crate::check`].

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::error::ConnectError;
use decoders::postgres::session::{self, Session};
use decoders::postgres::slot;

use crate::backfill::{Setting, tuning};
use crate::check::{self, CheckRequest, ConnectFailure, Report};
use crate::config::Config;
use crate::schema::{MaterializedViews, SchemaMode, find_pg_dump};

/// What a preflight found.
pub struct Preflight {
    /// The report.
    pub report: Report,
    /// A server could not be reached in a way that may pass: no verdict about it.
    pub unreachable: Option<String>,
}

/// Findings that say no more than that a server could not be asked.
const UNASKED: [&str; 4] = ["unreachable", "connections-exhausted", "connection-failed", "pg-dump"];

impl Preflight {
    /// Why nothing can be said yet, if all that is in the way is a server that does not answer.
    pub fn only_unreachable(&self) -> Option<String> {
        let others = self.report.blocking().any(|finding| !UNASKED.contains(&finding.id));
        self.unreachable.clone().filter(|_| !others)
    }
}

/// What the preflight is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Before the first start: whatever is there already is in the way.
    FirstStart,
    /// At any time: a pipeline that has begun is no obstacle to itself.
    Any,
}

/// Checks everything that could stand in the way of this pipeline.
pub async fn preflight(
    config: &Config,
    blue: &ConnInfo,
    green: &ConnInfo,
    moment: Moment,
) -> Preflight {
    let name = config.application_name();
    let (blue, green) = tokio::join!(session::connect(blue, &name), session::connect(green, &name));
    let transient = |side: &str, session: &Result<Session, ConnectError>| match session {
        Err(error) if error.is_transient() => Some(format!("{side}: {error}")),
        _ => None,
    };
    let unreachable: Vec<_> =
        [transient("blue", &blue), transient("green", &green)].into_iter().flatten().collect();
    let mut request = CheckRequest::new(&config.name);
    request.filter = config.tables.clone();
    request.accept = config.check.accept.clone();
    request.schema = config.schema.mode;
    request.owners = config.schema.owners;
    request.tablespaces = config.schema.tablespaces;
    request.refreshes_views = config.schema.materialized_views == MaterializedViews::Refresh;
    request.accepts_triggers = config.apply.accept_triggers;
    request.pg_dump = pg_dump(config, &blue, &green).await;
    request.resuming = moment == Moment::Any && has_begun(config, &blue, &green).await;
    // Copy workers with their keeper and pg_dump, the stream, the probes and the set-up.
    let most = |setting: Setting| {
        u32::try_from(setting.count_or(tuning::WORKERS_MAX / 2)).unwrap_or(u32::MAX)
    };
    request.blue_sessions = match config.protect.blue_connections.fixed() {
        Some(connections) => u32::try_from(connections).unwrap_or(u32::MAX),
        None => most(config.copy.workers).saturating_add(6),
    };
    // Indexes of tables that are complete are built while others are copied.
    let jobs = most(config.schema.jobs);
    request.green_sessions = most(config.copy.workers).saturating_add(jobs).saturating_add(5);
    let report = check::check(
        &request,
        blue.as_deref().map_err(ConnectFailure::from),
        green.as_deref().map_err(ConnectFailure::from),
    )
    .await;
    let unreachable = (!unreachable.is_empty()).then(|| unreachable.join("; "));
    Preflight { report, unreachable }
}

/// Whether this pipeline's slot and its notes on green are there. A server that can't be asked is a
/// finding of its own.
async fn has_begun(
    config: &Config,
    blue: &Result<Session, ConnectError>,
    green: &Result<Session, ConnectError>,
) -> bool {
    let (Ok(blue), Ok(green)) = (blue, green) else { return false };
    let has_slot = matches!(slot::inspect(blue, &config.slot()).await, Ok(Some(_)));
    let sql = "SELECT pg_catalog.to_regnamespace('_cutover') IS NOT NULL";
    has_slot && green.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
}

async fn pg_dump(
    config: &Config,
    blue: &Result<Session, ConnectError>,
    green: &Result<Session, ConnectError>,
) -> Result<String, String> {
    if config.schema.mode == SchemaMode::Existing {
        return Ok("not needed: green has the schema".into());
    }
    let (Ok(blue), Ok(green)) = (blue, green) else {
        return Err("not looked for: the versions of blue and green are not known".into());
    };
    let major = |session: &Session| session.server_version() / 10_000;
    let configured = config.schema.pg_dump.as_deref();
    let found = find_pg_dump(major(blue), major(green), configured).await;
    found.map(|pg_dump| pg_dump.to_string()).map_err(|error| error.to_string())
}
