//! The API: what a page in a browser can send, what an order without a right does, and a flood of connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Ground, SOON, Who};

/// Everything that acts.
const ACTS: [&str; 8] = [
    "/v1/cutover",
    "/v1/rollback",
    "/v1/finish",
    "/v1/verify",
    "/v1/repair",
    "/v1/verify/last/stop",
    "/v1/cutover/current/abort",
    "/v1/retry",
];
const GO: &str = r#"{"when_lag":"<1s","confirmation":"--yes"}"#;
/// Connections that say half of something and no more.
const FLOOD: usize = 300;

/// A request as it is sent.
struct Request<'a> {
    line: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
}

pub(super) async fn run(ground: &mut Ground) -> Result<()> {
    let api = ground.stage.api();
    let address = api.base_url().trim_start_matches("http://").to_owned();
    let token = api.authorization().context("the sidecar has made no token")?;
    let json = ("Content-Type", "application/json");
    let known = ("Authorization", token.as_str());
    let host = ("Host", address.as_str());

    // A page that got hold of a token, or of a proxy that adds it.
    let pages: [(&str, &[(&str, &str)]); 7] = [
        ("another origin", &[host, known, json, ("Origin", "https://evil.example")]),
        ("the null origin", &[host, known, json, ("Origin", "null")]),
        ("a rebound name", &[("Host", "evil.example"), known, json]),
        ("no host", &[known, json]),
        ("a cross-site fetch", &[host, known, json, ("Sec-Fetch-Site", "cross-site")]),
        ("a form's text", &[host, known, ("Content-Type", "text/plain")]),
        ("no type at all", &[host, known]),
    ];
    for (what, headers) in pages {
        for path in ACTS {
            let line = format!("POST {path} HTTP/1.1");
            let status = send(&address, &Request { line: &line, headers, body: GO })?;
            let harm = (!is_refused(status)).then(|| format!("{path} answered {status:?}"));
            ground.summary.note(Who::Browser, format!("{what}, {path}"), harm);
        }
    }

    // Somebody who is not known, and tricks to be taken for somebody else.
    let basic = "Basic YWRtaW46YWRtaW4=";
    let strangers: [(&str, &[(&str, &str)]); 5] = [
        ("no token", &[host, json]),
        ("an empty token", &[host, json, ("Authorization", "Bearer ")]),
        ("a guessed token", &[host, json, ("Authorization", "Bearer 00000000")]),
        ("a password", &[host, json, ("Authorization", basic)]),
        ("a name for the peer", &[host, json, ("X-Forwarded-For", "127.0.0.1")]),
    ];
    for (what, headers) in strangers {
        for path in ACTS {
            let line = format!("POST {path} HTTP/1.1");
            let status = send(&address, &Request { line: &line, headers, body: GO })?;
            let harm = (!is_refused(status)).then(|| format!("{path} answered {status:?}"));
            ground.summary.note(Who::Neighbour, format!("{what}, {path}"), harm);
        }
    }
    let in_query = format!("GET /v1/status?token={} HTTP/1.1", token.trim_start_matches("Bearer "));
    let lines = [
        "GET //v1/status HTTP/1.1",
        "GET /livez/../v1/status HTTP/1.1",
        "GET /v1/status%00 HTTP/1.1",
        "GET /V1/STATUS HTTP/1.1",
        "GET /metrics HTTP/1.1",
        &in_query,
    ];
    for line in lines {
        let status = send(&address, &Request { line, headers: &[host], body: "" })?;
        let harm = (!is_refused(status)).then(|| format!("answered {status:?}"));
        let line = line.split('?').next().unwrap_or(line);
        ground.summary.note(Who::Neighbour, format!("a way round the guard: {line}"), harm);
    }
    smuggle(ground, &address, &token)?;
    flood(ground, &address).await?;
    let run = ground.stage.api().status()?["cutover"].clone();
    let harm = (!run.is_null()).then(|| format!("a run was begun: {run}"));
    ground.summary.note(Who::Browser, "all of it together begins a run", harm);
    Ok(())
}

/// Two requests in one, and bodies that never end: none may be carried out.
fn smuggle(ground: &mut Ground, address: &str, token: &str) -> Result<()> {
    let inner = format!(
        "POST /v1/rollback HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    );
    let length = inner.len().to_string();
    let twice: &[(&str, &str)] = &[
        ("Host", address),
        ("Authorization", token),
        ("Content-Type", "application/json"),
        ("Content-Length", "0"),
        ("Content-Length", &length),
    ];
    let both: &[(&str, &str)] = &[
        ("Host", address),
        ("Authorization", token),
        ("Content-Type", "application/json"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", &length),
    ];
    let huge: &[(&str, &str)] = &[
        ("Host", address),
        ("Authorization", token),
        ("Content-Type", "application/json"),
        ("Content-Length", "1000000000000"),
    ];
    let ways = [
        ("two lengths", twice, inner.as_str()),
        ("two framings", both, &inner),
        ("a terabyte", huge, "{"),
    ];
    for (what, headers, body) in ways {
        let status = raw(address, "POST /v1/plan HTTP/1.1", headers, body)?;
        let harm = (status == Some(200)).then(|| "it was answered".to_owned());
        ground.summary.note(Who::Neighbour, format!("a request with {what}"), harm);
    }
    Ok(())
}

/// The operator gets through, and so do the rows.
async fn flood(ground: &mut Ground, address: &str) -> Result<()> {
    let mut open = Vec::new();
    for _ in 0..FLOOD {
        // Whoever is refused closes the door for us.
        let Ok(mut connection) = TcpStream::connect(address) else { continue };
        if connection.write_all(b"POST /v1/cutover HTTP/1.1\r\nHost: ").is_ok() {
            open.push(connection);
        }
    }
    let state_dir = ground.stage.state_dir();
    let asked = crate::process::Launch::ours("cutover")?
        .arg("--state-dir")
        .arg(&state_dir)
        .arg("status")
        .run(SOON)?;
    let harm =
        (asked.code() != 0).then(|| format!("the operator is not answered: {}", asked.stderr));
    ground.summary.note(Who::Flood, format!("{FLOOD} half-sent requests"), harm);
    let carried = ground.stage.wait_caught_up(SOON).await;
    let harm = carried.err().map(|error| format!("rows wait: {error:#}"));
    ground.summary.note(Who::Flood, "the same against the stream", harm);
    drop(open);
    Ok(())
}

fn send(address: &str, request: &Request<'_>) -> Result<Option<u16>> {
    let length = request.body.len().to_string();
    let mut headers = request.headers.to_vec();
    headers.push(("Content-Length", &length));
    raw(address, request.line, &headers, request.body)
}

/// The status of the answer; `None` if the connection was closed without one.
fn raw(address: &str, line: &str, headers: &[(&str, &str)], body: &str) -> Result<Option<u16>> {
    let mut connection = TcpStream::connect(address).context("the API can't be reached")?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut text = format!("{line}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("Connection: close\r\n\r\n");
    text.push_str(body);
    // A guard may close before it has read everything.
    let sent = connection.write_all(text.as_bytes());
    let mut answer = [0; 12];
    let read = connection.read_exact(&mut answer);
    if sent.is_err() || read.is_err() {
        return Ok(None);
    }
    Ok(std::str::from_utf8(&answer[9..12]).ok().and_then(|status| status.parse().ok()))
}

/// Refused, or not there at all.
fn is_refused(status: Option<u16>) -> bool {
    status.is_none_or(|status| (400..500).contains(&status))
}
