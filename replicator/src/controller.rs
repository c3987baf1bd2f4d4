//! The controller of a pipeline, whatever its engine: what the API and the alerts ask it.

use std::sync::Arc;
use std::time::Duration;

use cutover::api::{
    AbortRequest, ApiError, FinishPlan, FinishReport, FinishRequest, History, Plan, PlanRequest,
    RunReport, RunStatus, RunUpdate, StartCutover,
};
use cutover::controller::{Breached, Standing};
use cutover::lease::{MysqlLease, PostgresLease};
use cutover::ports::PortResult;
use cutover::{MysqlWorld, PostgresWorld, Service};

use crate::controlling::EngineReplication;
use crate::pipeline::mysql::BinlogRoute;
use crate::store::RocksJournal;
use crate::watchdog::SidecarLease;

/// The controller of a pipeline between two PostgreSQL databases.
pub type PostgresController = Service<
    PostgresWorld<RocksJournal, EngineReplication, EngineReplication, SidecarLease<PostgresLease>>,
>;

/// The engine of a pipeline between two servers of MySQL or MariaDB.
pub type BinlogReplication = EngineReplication<BinlogRoute>;

/// The controller of a pipeline between two servers of MySQL or MariaDB.
pub type MysqlController = Service<
    MysqlWorld<RocksJournal, BinlogReplication, BinlogReplication, SidecarLease<MysqlLease>>,
>;

/// Either. Cheap to clone.
#[derive(Clone)]
pub enum Controller {
    /// Between two PostgreSQL databases.
    Postgres(Arc<PostgresController>),
    /// Between two servers of MySQL or MariaDB.
    Mysql(Arc<MysqlController>),
}

/// The same call to whichever it is.
macro_rules! each {
    ($controller:expr, $service:ident => $call:expr) => {
        match $controller {
            Controller::Postgres($service) => $call,
            Controller::Mysql($service) => $call,
        }
    };
}

/// Each as [`Service`] says.
#[allow(missing_docs, clippy::missing_errors_doc)]
impl Controller {
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan, ApiError> {
        each!(self, service => service.plan(request).await)
    }

    pub async fn start(&self, request: StartCutover) -> Result<RunStatus, ApiError> {
        each!(self, service => service.start(request).await)
    }

    pub async fn rollback(&self, request: StartCutover) -> Result<RunStatus, ApiError> {
        each!(self, service => service.rollback(request).await)
    }

    pub async fn finish_plan(&self) -> Result<FinishPlan, ApiError> {
        each!(self, service => service.finish_plan().await)
    }

    pub async fn finish(&self, request: FinishRequest) -> Result<FinishReport, ApiError> {
        each!(self, service => service.finish(request).await)
    }

    pub async fn update(
        &self,
        run: &str,
        after: u64,
        wait: Duration,
    ) -> Result<RunUpdate, ApiError> {
        each!(self, service => service.update(run, after, wait).await)
    }

    pub async fn abort(&self, run: &str, request: AbortRequest) -> Result<RunStatus, ApiError> {
        each!(self, service => service.abort(run, request).await)
    }

    pub async fn report(&self, run: &str) -> Result<RunReport, ApiError> {
        each!(self, service => service.report(run).await)
    }

    pub async fn history(&self) -> Result<History, ApiError> {
        each!(self, service => service.history().await)
    }

    pub async fn standing(&self) -> PortResult<Standing> {
        each!(self, service => service.standing().await)
    }

    pub fn current(&self) -> Option<RunStatus> {
        each!(self, service => service.current())
    }

    pub fn breach(&self) -> Option<Breached> {
        each!(self, service => service.breach())
    }
}
