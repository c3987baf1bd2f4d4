//! The sidecar's API, blocking.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;
use ureq::tls::{ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::api::{
    AbortRequest, ApiError, AuditPage, ErrorCode, FinishPlan, FinishReport, FinishRequest, History,
    Plan, PlanRequest, Retried, RetryRequest, RunReport, RunStatus, RunUpdate, SCHEMA_VERSION,
    StartCutover, Status,
};
use crate::side::Direction;
use crate::verify::repair::{RepairPlan, RepairRequest, RepairStatus};
use crate::verify::{VerifyRequest, VerifyStatus};

use super::args::CommonArgs;
use super::exit::Exit;
use super::failure::Failure;
use super::patience::{Pace, patiently};
use super::place::{Place, Sidecar};
use super::render::UNKNOWN;
use super::screen::Screen;
use super::socket::{NoLookup, SocketConnector};

/// What requests over the socket are for. The sidecar does not look at it.
const SOCKET_BASE: &str = "http://localhost";
/// To connect.
const CONNECT: Duration = Duration::from_secs(3);
/// To answer what is known already.
const QUICK: Duration = Duration::from_secs(10);
/// To answer what needs reading files, or a word with the servers. What depends on the size of a database
/// has no such limit: see [`patiently`].
const THOROUGH: Duration = Duration::from_secs(60);
/// The largest answer, bytes. A status of thousands of tables stays far below.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// A request that was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer.
    #[error("the sidecar does not answer: {0}")]
    Unreachable(String),
    /// An answer that is not the sidecar's.
    #[error("{0}")]
    Foreign(String),
    /// The sidecar said no.
    #[error("{}", .0.what)]
    Refused(Box<ApiError>),
}

impl ClientError {
    /// Whether asking again later can help.
    pub fn may_pass(&self) -> bool {
        match self {
            ClientError::Unreachable(_) | ClientError::Foreign(_) => true,
            // A sidecar that has just started knows its runs once it has read its journal.
            ClientError::Refused(error) => matches!(
                error.code,
                ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::NotFound
            ),
        }
    }
}

/// Where the sidecar is and how to talk to it.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    /// The address or the socket, for people.
    place: String,
    /// Complete value of the `Authorization` header. Never shown.
    authorization: Option<String>,
    /// Where a token was looked for, if none was found.
    looked: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("place", &self.place).finish_non_exhaustive()
    }
}

/// An error of a command that has not heard from the sidecar, and so can't say whether the data is safe
/// unless the state is known.
fn unseen(code: ErrorCode, what: String, place: &str, state: &str) -> ApiError {
    let data_safe = !state.starts_with(UNKNOWN);
    ApiError { data_safe, ..ApiError::new(code, what, place).in_state(state) }
}

impl Client {
    /// A client as the command line asks for it.
    pub fn new(common: &CommonArgs) -> Result<Self, Failure> {
        let Sidecar { place, token, looked } = Sidecar::find(common)?;
        let authorization = token.map(|token| format!("Bearer {token}"));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token goes to the address that was named and to no other.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .tls_config(tls(common)?)
            .user_agent(concat!("cutover/", env!("CARGO_PKG_VERSION")))
            .build();
        let (agent, base, place) = match place {
            Place::Url(url) => (config.new_agent(), url.clone(), url),
            Place::Socket(path) => {
                let shown = format!("unix:{}", path.display());
                let agent = Agent::with_parts(config, SocketConnector(path), NoLookup);
                (agent, SOCKET_BASE.into(), shown)
            }
        };
        Ok(Self { agent, base, place, authorization, looked })
    }

    /// Whether the other one asks the same place with the same right.
    pub fn asks_as(&self, other: &Client) -> bool {
        self.place == other.place && self.authorization == other.authorization
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status", QUICK)
    }

    /// `GET /v1/history`.
    pub fn history(&self) -> Result<History, ClientError> {
        self.get("/v1/history", QUICK)
    }

    /// `GET /v1/cutover/{run}/report`.
    pub fn report(&self, run: &str) -> Result<RunReport, ClientError> {
        self.get(&format!("/v1/cutover/{run}/report"), QUICK)
    }

    /// `GET /v1/audit`: the last lines.
    pub fn audit(&self, last: usize) -> Result<AuditPage, ClientError> {
        self.get(&format!("/v1/audit?last={last}"), THOROUGH)
    }

    /// `GET /v1/audit`: the first lines past number `after`.
    pub fn audit_after(&self, after: u64, first: usize) -> Result<AuditPage, ClientError> {
        self.get(&format!("/v1/audit?after={after}&first={first}"), THOROUGH)
    }

    /// `POST /v1/plan`.
    pub fn plan(&self, request: &PlanRequest, screen: &Screen) -> Result<Plan, ClientError> {
        self.post_patiently("/v1/plan", request, screen)
    }

    /// `POST /v1/cutover` or `POST /v1/rollback`.
    pub fn start(
        &self,
        direction: Direction,
        request: &StartCutover,
        screen: &Screen,
    ) -> Result<RunStatus, ClientError> {
        let path = match direction {
            Direction::Forward => "/v1/cutover",
            Direction::Back => "/v1/rollback",
        };
        self.post_patiently(path, request, screen)
    }

    /// `GET /v1/finish`.
    pub fn finish_plan(&self, screen: &Screen) -> Result<FinishPlan, ClientError> {
        let client = self.clone();
        self.patiently(screen, move || client.get("/v1/finish", None::<Duration>))
    }

    /// `POST /v1/finish`.
    pub fn finish(
        &self,
        request: &FinishRequest,
        screen: &Screen,
    ) -> Result<FinishReport, ClientError> {
        self.post_patiently("/v1/finish", request, screen)
    }

    /// `POST /v1/cutover/{run}/abort`.
    pub fn abort(&self, run: &str, request: &AbortRequest) -> Result<RunStatus, ClientError> {
        self.post(&format!("/v1/cutover/{run}/abort"), request, QUICK)
    }

    /// `POST /v1/retry`.
    pub fn retry(&self, request: &RetryRequest) -> Result<Retried, ClientError> {
        self.post("/v1/retry", request, QUICK)
    }

    /// `GET /v1/cutover/{run}`: the events past `after`; waits at most `wait` for one.
    pub fn update(&self, run: &str, after: u64, wait: Duration) -> Result<RunUpdate, ClientError> {
        let wait_ms = wait.as_millis();
        let path = format!("/v1/cutover/{run}?after={after}&wait_ms={wait_ms}");
        self.get(&path, wait + QUICK)
    }

    /// `POST /v1/verify`.
    pub fn verify(
        &self,
        request: &VerifyRequest,
        screen: &Screen,
    ) -> Result<VerifyStatus, ClientError> {
        self.post_patiently("/v1/verify", request, screen)
    }

    /// `GET /v1/verify/{id}`: waits at most `wait` for its end.
    pub fn verified(&self, id: &str, wait: Duration) -> Result<VerifyStatus, ClientError> {
        let wait_ms = wait.as_millis();
        self.get(&format!("/v1/verify/{id}?wait_ms={wait_ms}"), wait + QUICK)
    }

    /// `POST /v1/verify/{id}/stop`.
    pub fn stop_verify(&self, id: &str) -> Result<VerifyStatus, ClientError> {
        self.post(&format!("/v1/verify/{id}/stop"), &serde_json::json!({}), THOROUGH)
    }

    /// `POST /v1/repair/plan`.
    pub fn repair_plan(
        &self,
        request: &RepairRequest,
        screen: &Screen,
    ) -> Result<RepairPlan, ClientError> {
        self.post_patiently("/v1/repair/plan", request, screen)
    }

    /// `POST /v1/repair`.
    pub fn repair(
        &self,
        request: &RepairRequest,
        screen: &Screen,
    ) -> Result<RepairStatus, ClientError> {
        self.post_patiently("/v1/repair", request, screen)
    }

    /// `GET /v1/repair/{id}`: waits at most `wait` for its end.
    pub fn repaired(&self, id: &str, wait: Duration) -> Result<RepairStatus, ClientError> {
        let wait_ms = wait.as_millis();
        self.get(&format!("/v1/repair/{id}?wait_ms={wait_ms}"), wait + QUICK)
    }

    /// `POST /v1/repair/{id}/stop`.
    pub fn stop_repair(&self, id: &str) -> Result<RepairStatus, ClientError> {
        self.post(&format!("/v1/repair/{id}/stop"), &serde_json::json!({}), THOROUGH)
    }

    /// What to say when the sidecar could not be asked; `state` says what that means for a run.
    pub fn failure(&self, error: ClientError, state: &str) -> Failure {
        match error {
            ClientError::Refused(error) => match &self.looked {
                Some(looked) if error.code == ErrorCode::Unauthorized => {
                    let what = format!("{}; {looked}", error.what);
                    ApiError { what, ..*error }.into()
                }
                _ => (*error).into(),
            },
            ClientError::Unreachable(_) => Failure::new(
                Exit::Unreachable,
                unseen(ErrorCode::Unavailable, error.to_string(), &self.place, state)
                    .next("is `replicator run` up? Is --api (or CUTOVER_API), or --state-dir, right? Then: cutover status"),
            ),
            ClientError::Foreign(_) => Failure::new(
                Exit::Failed,
                unseen(ErrorCode::Internal, error.to_string(), &self.place, state)
                    .next("check --api (or CUTOVER_API), and that both are of one release"),
            ),
        }
    }

    fn post_patiently<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
        body: &impl Serialize,
        screen: &Screen,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_value(body)
            .map_err(|error| ClientError::Foreign(format!("the request can't be sent: {error}")))?;
        let client = self.clone();
        self.patiently(screen, move || client.post(path, &body, None::<Duration>))
    }

    /// Whether the sidecar answers at all.
    fn lives(&self, within: Duration) -> bool {
        let request = self.agent.get(format!("{}/livez", self.base));
        let answer = request.config().timeout_global(Some(within)).build().call();
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn patiently<T: Send + 'static>(
        &self,
        screen: &Screen,
        ask: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let pace = Pace::USUAL;
        let say = |so_far: Duration| {
            let so_far = humantime::format_duration(Duration::from_secs(so_far.as_secs()));
            screen.replace(&format!(" the sidecar is at work on its answer: {so_far} so far"));
        };
        patiently(pace, ask, || self.lives(pace.every), say)
    }

    fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        within: impl Into<Option<Duration>>,
    ) -> Result<T, ClientError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = request.config().timeout_global(within.into()).build().call();
        read(answer)
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: impl Into<Option<Duration>>,
    ) -> Result<T, ClientError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = request.config().timeout_global(within.into()).build().send_json(body);
        read(answer)
    }
}

fn read<T: DeserializeOwned>(
    answer: Result<Response<ureq::Body>, ureq::Error>,
) -> Result<T, ClientError> {
    let unreachable = |error: ureq::Error| ClientError::Unreachable(error.to_string());
    let mut answer = answer.map_err(unreachable)?;
    let status = answer.status();
    let text =
        answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string().map_err(unreachable)?;
    let foreign = |why: &str| ClientError::Foreign(format!("{why} (HTTP {})", status.as_u16()));
    let mut value: Value = serde_json::from_str(&text)
        .map_err(|_| foreign("this is not a sidecar's API: the answer is not JSON"))?;
    match value.get("schema_version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(SCHEMA_VERSION) => {}
        Some(version) => {
            return Err(foreign(&format!(
                "the sidecar speaks version {version} of the API, this command {SCHEMA_VERSION}"
            )));
        }
        None => return Err(foreign("this is not a sidecar's API: no schema_version")),
    }
    without_controls(&mut value);
    if status.is_success() {
        T::deserialize(value).map_err(|error| foreign(&format!("unexpected answer: {error}")))
    } else {
        let error = ApiError::deserialize(value)
            .map_err(|error| foreign(&format!("unexpected error: {error}")))?;
        Err(ClientError::Refused(Box::new(error)))
    }
}

/// Names of tables and texts of servers end up on a terminal: none may steer it.
fn without_controls(value: &mut Value) {
    match value {
        Value::String(text) => {
            let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
            if text.contains(steers) {
                *text = text.replace(steers, "\u{fffd}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_controls),
        Value::Object(fields) => fields.values_mut().for_each(without_controls),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// TLS as the command line asks for it; the public authorities without it.
fn tls(common: &CommonArgs) -> Result<TlsConfig, Failure> {
    let read = |path: &Path, option: &str| {
        std::fs::read(path).map_err(|error| {
            let what = format!("the file of {option} can't be read: {error}");
            Failure::usage(what, path.display().to_string(), "check the path")
        })
    };
    let unusable = |path: &Path, option: &str, why: &str| {
        let what = format!("the file of {option} can't be used: {why}");
        Failure::usage(what, path.display().to_string(), "give a PEM file")
    };
    let certificates = |path: &Path, option: &str| {
        let bytes = read(path, option)?;
        let mut found = Vec::new();
        for item in parse_pem(&bytes) {
            match item {
                Ok(PemItem::Certificate(certificate)) => found.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(unusable(path, option, &error.to_string())),
            }
        }
        match found.is_empty() {
            true => Err(unusable(path, option, "it holds no certificate")),
            false => Ok(found),
        }
    };
    let mut tls = TlsConfig::builder();
    if let Some(path) = &common.api_ca {
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates(path, "--api-ca")?));
    }
    if let (Some(cert), Some(key)) = (&common.api_cert, &common.api_key) {
        let chain = certificates(cert, "--api-cert")?;
        let found = PrivateKey::from_pem(&read(key, "--api-key")?);
        let private = found.map_err(|error| unusable(key, "--api-key", &error.to_string()))?;
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, private)));
    }
    Ok(tls.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let mut value =
            serde_json::json!({"a": ["x\u{1b}[2Jy", "line\nline"], "b": {"c": "\u{9b}"}});
        without_controls(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"a": ["x\u{fffd}[2Jy", "line\nline"], "b": {"c": "\u{fffd}"}})
        );
    }
}
