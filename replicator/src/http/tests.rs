//! The API's doors and its guard, with routes that only say that they were reached.

mod flood;
mod tls;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::routing::{MethodRouter, get, post};
use cutover::audit::{Audit, Event, FILE, Kind};
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::accept::{self, Limits};
use super::guard::Guard;
use super::keys::Keyring;
use super::table::{Route, router, table};
use super::tls::Certificate;
use crate::config::{ApiConfig, MetricsAccess, Role, TokenConfig};

const ROLES: [Role; 3] = [Role::Read, Role::Operate, Role::Flip];
const JSON: &str = "Content-Type: application/json\r\n";

/// An API with a token for each role, which is named like it.
struct Site {
    directory: TempDir,
    port: u16,
    audit: Audit,
    _tasks: JoinSet<()>,
}

fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The table with handlers that do nothing.
fn stubs(metrics: MetricsAccess) -> Vec<Route<()>> {
    let stub = |route: Route<_>| {
        let reached = || async { "reached" };
        let handler: MethodRouter =
            if route.method == Method::POST { post(reached) } else { get(reached) };
        Route {
            handler,
            method: route.method,
            path: route.path,
            needs: route.needs,
            acts: route.acts,
        }
    };
    table(metrics).into_iter().map(stub).collect()
}

impl Site {
    async fn open(mut config: ApiConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for role in ROLES {
            let file = directory.path().join(role.name());
            write_secret(&file, &token(role));
            config.tokens.push(TokenConfig { name: role.name().into(), role, file });
        }
        let keys = Keyring::open(&config, directory.path()).unwrap();
        let certificate = config.tls.as_ref().map(|tls| Arc::new(Certificate::open(tls).unwrap()));
        let audit = Audit::open(directory.path(), Vec::new()).unwrap();
        let guard = Guard::new(&config, keys, audit.clone());
        let router: Router = router(stubs(config.metrics), &guard);
        let limits = Limits::new(&config, 4_096);
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let socket = accept::bind_local(&directory.path().join("api.sock")).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::over_tcp(tcp, certificate, limits, router.clone()));
        tasks.spawn(accept::over_socket(socket, limits, router));
        Self { directory, port, audit, _tasks: tasks }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn ask(&self, method: &Method, path: &str, headers: &str) -> (u16, String) {
        ask(self.connect().await, method, path, &format!("Host: 127.0.0.1\r\n{headers}")).await
    }

    /// The audit log's lines of this kind, once everything is in it.
    async fn log(&self, kind: &str) -> Vec<Value> {
        let end = Event::new(Timestamp::now(), Kind::Opened, "the end", Value::Null);
        self.audit.write(end).await.unwrap();
        let text = std::fs::read_to_string(self.directory.path().join(FILE)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    }
}

fn token(role: Role) -> String {
    format!("the-token-for-{}", role.name())
}

fn bearer(role: Role) -> String {
    format!("Authorization: Bearer {}\r\n", token(role))
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &Method,
    path: &str,
    headers: &str,
) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&mut stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), text)
}

#[tokio::test]
async fn every_route_is_refused_without_a_token_and_with_every_lesser_role() {
    let site = Site::open(ApiConfig::default()).await;
    let table = stubs(MetricsAccess::Read);
    assert!(table.len() > 20);
    for Route { method, path, needs, .. } in &table {
        let path = path.replace("{run}", "current").replace("{id}", "last");
        let reached = |headers: String| {
            let (site, path) = (&site, &path);
            async move { site.ask(method, path, &(JSON.to_owned() + &headers)).await }
        };
        let Some(needs) = needs else {
            assert_eq!(reached(String::new()).await.0, 200, "{method} {path}");
            continue;
        };
        for nobody in ["", "Authorization: Bearer guess\r\n", "Authorization: Basic cm9vdDo=\r\n"] {
            let (status, text) = reached(nobody.into()).await;
            assert!(status == 401 && !text.contains("reached"), "{method} {path} {nobody}: {text}");
        }
        for role in ROLES {
            let (status, text) = reached(bearer(role)).await;
            let expected = if role >= *needs { 200 } else { 403 };
            assert_eq!(status, expected, "{method} {path} as {}: {text}", role.name());
            assert_eq!(text.contains("reached"), expected == 200);
        }
    }
    for flip in ["/v1/cutover", "/v1/rollback", "/v1/finish"] {
        let found = table.iter().find(|route| route.path == flip && route.method == Method::POST);
        assert_eq!(found.unwrap().needs, Some(Role::Flip), "{flip}");
    }
    assert_eq!(site.ask(&Method::GET, "/v1/nothing", "").await.0, 404);
}

#[tokio::test]
async fn metrics_need_the_role_read_or_are_open_and_nothing_else_is() {
    let open = table(MetricsAccess::Open);
    let paths = open.iter().filter(|route| route.needs.is_none()).map(|route| route.path);
    assert_eq!(paths.collect::<Vec<_>>(), ["/livez", "/readyz", "/startupz", "/metrics"]);
    let config = ApiConfig { metrics: MetricsAccess::Open, ..ApiConfig::default() };
    let site = Site::open(config).await;
    assert_eq!(site.ask(&Method::GET, "/metrics", "").await.0, 200);
    assert_eq!(site.ask(&Method::GET, "/v1/status", "").await.0, 401);
}

#[tokio::test]
async fn a_browser_that_another_site_sends_here_reaches_nothing() {
    let site = Site::open(ApiConfig::default()).await;
    let flip = bearer(Role::Flip);
    let post = |headers: String| {
        let site = &site;
        async move { ask(site.connect().await, &Method::POST, "/v1/cutover", &headers).await.0 }
    };
    // A name of theirs that leads to loopback.
    assert_eq!(post(format!("Host: evil.example:7654\r\n{JSON}{flip}")).await, 403);
    // A page of theirs that sends a form, or a request without a preflight.
    let host = "Host: localhost:7654\r\n";
    let foreign = "Origin: https://evil.example\r\n";
    assert_eq!(post(format!("{host}{foreign}{JSON}{flip}")).await, 403);
    assert_eq!(post(format!("{host}Sec-Fetch-Site: cross-site\r\n{JSON}{flip}")).await, 403);
    for kind in
        ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"]
    {
        assert_eq!(post(format!("{host}{kind}{flip}")).await, 400, "{kind}");
    }
    assert_eq!(site.log("request").await.len(), 0, "none of them was written down as a request");
    assert_eq!(site.log("refused").await.len(), 6);
    assert_eq!(post(format!("{host}{JSON}{flip}")).await, 200);
    assert_eq!(site.log("request").await.len(), 1);
}

#[tokio::test]
async fn the_log_has_who_was_seen_from_where_and_what_he_said() {
    let site = Site::open(ApiConfig::default()).await;
    let body = r#"{"actor":"root","reason":"because"}"#;
    let head = format!("{JSON}{}Content-Length: {}\r\n\r\n{body}", bearer(Role::Flip), body.len());
    let request =
        format!("POST /v1/cutover HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}");
    let mut stream = site.connect().await;
    let ours = stream.local_addr().unwrap().to_string();
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.0, 200);
    for kind in ["request", "answer"] {
        let [line] = &site.log(kind).await[..] else { panic!("not one {kind}") };
        assert_eq!((&line["actor"], &line["said_by"]), (&"token:flip".into(), &"root".into()));
        assert_eq!(line["peer"], ours);
    }

    site.ask(&Method::POST, "/v1/finish", &format!("{JSON}{}", bearer(Role::Read))).await;
    site.ask(&Method::GET, "/v1/status", "Authorization: Bearer a-guess\r\n").await;
    let [lesser, unknown] = &site.log("refused").await[..] else { panic!("not two") };
    assert_eq!(
        (&lesser["actor"], &lesser["detail"]["status"]),
        (&"token:read".into(), &403.into())
    );
    assert_eq!((&unknown["actor"], &unknown["detail"]["status"]), (&Value::Null, &401.into()));
    assert!(unknown["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let text = std::fs::read_to_string(site.directory.path().join(FILE)).unwrap();
    assert!(!text.contains("a-guess") && !text.contains("the-token-for"), "{text}");
}

#[tokio::test]
async fn a_flood_of_refused_requests_leaves_a_few_lines() {
    let site = Site::open(ApiConfig::default()).await;
    let guesses =
        (0..200).map(|_| site.ask(&Method::GET, "/v1/status", "Authorization: Bearer x\r\n"));
    for guess in guesses {
        assert_eq!(guess.await.0, 401);
    }
    let written = site.log("refused").await.len();
    assert!((60..100).contains(&written), "{written}");
}

#[tokio::test]
async fn our_own_user_needs_no_token_over_the_socket() {
    let site = Site::open(ApiConfig::default()).await;
    let path = site.directory.path().join("api.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = UnixStream::connect(&path).await.unwrap();
    let asked =
        ask(stream, &Method::POST, "/v1/finish", &format!("Host: localhost\r\n{JSON}")).await;
    assert_eq!(asked.0, 200, "{}", asked.1);
    let [line] = &site.log("request").await[..] else { panic!("not one request") };
    let uid = nix::unistd::Uid::effective();
    let name = nix::unistd::User::from_uid(uid).unwrap().unwrap().name;
    assert_eq!(line["actor"], format!("user:{name}"));
    let peer = format!("unix uid {uid} pid {}", std::process::id());
    assert_eq!(line["peer"], peer);
}
