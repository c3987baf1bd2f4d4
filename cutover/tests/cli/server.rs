//! A sidecar that says what a test wants: HTTP/1.1 on loopback, one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use cutover::api::{RunEvent, RunEventKind, RunReport, RunStatus};
use serde_json::{Value, json};

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header lines, names in lower case.
    pub headers: Vec<String>,
    pub body: Value,
}

/// What the sidecar knows and what it was asked.
#[derive(Debug, Default)]
pub struct State {
    pub plan: Value,
    pub status: Value,
    pub history: Value,
    pub finish_plan: Value,
    pub run: Option<RunStatus>,
    pub events: Vec<RunEvent>,
    /// Answer to a start in the place of a run.
    pub start_refused: Option<(u16, Value)>,
    /// The report that an abort leads to; without one it is too late for an abort.
    pub on_abort: Option<RunReport>,
    pub requests: Vec<Request>,
    /// A plan is answered once somebody has asked whether the sidecar lives.
    pub plan_is_slow: bool,
    /// Connections end without an answer, those that wait for events at once.
    pub mute: bool,
}

impl State {
    pub fn event(&mut self, kind: RunEventKind) {
        let number = self.events.len() as u64 + 1;
        self.events.push(RunEvent { number, at: crate::canned::at(), kind });
        if let Some(run) = &mut self.run {
            run.last_event = number;
        }
    }

    /// Ends the run.
    pub fn end(&mut self, report: RunReport, phase: cutover::Phase) {
        let run = self.run.as_mut().expect("there is a run");
        run.phase = phase;
        run.abortable = false;
        run.serving.clone_from(&report.serving);
        let outcome = report.outcome;
        run.report = Some(report);
        self.event(RunEventKind::Ended { outcome });
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The server. It is gone when the last handle is: the accepting thread ends with the process.
#[derive(Clone)]
pub struct Sidecar {
    shared: Arc<Shared>,
    url: String,
}

impl Sidecar {
    pub fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let sidecar = Self { shared: shared.clone(), url };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client that is gone in the middle of an exchange is part of the tests.
                thread::spawn(move || serve(&shared, stream).ok());
            }
        });
        sidecar
    }

    /// Answers at a socket, too.
    pub fn listen_at(&self, path: &Path) {
        let listener = UnixListener::bind(path).expect("the directory is there");
        let shared = self.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(&shared, stream).ok());
            }
        });
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test thread panics while it holds the state")
    }

    /// Changes what is known and wakes who waits for events.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.shared.changed.notify_all();
    }

    /// Waits until a request satisfies `wanted`.
    pub fn wait_for(&self, wanted: impl Fn(&Request) -> bool) -> Request {
        let deadline = Instant::now() + crate::DEADLINE;
        let mut state = self.state();
        loop {
            if let Some(found) = state.requests.iter().find(|request| wanted(request)) {
                return found.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such request: {:?}", state.requests);
            state = self.shared.changed.wait_timeout(state, left).expect("not poisoned").0;
        }
    }
}

fn serve(shared: &Shared, stream: impl Read + Write) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read_request(&mut reader)?;
    let (status, body) = answer(shared, request);
    if shared.state.lock().expect("not poisoned").mute {
        return Ok(());
    }
    let body = body.to_string();
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.trim().split_once(':').unwrap_or((header.trim(), ""));
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.trim().parse().unwrap_or(0);
        }
        headers.push(format!("{name}: {}", value.trim()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, target, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn answer(shared: &Shared, request: Request) -> (u16, Value) {
    let mut state = shared.state.lock().expect("not poisoned");
    state.requests.push(request.clone());
    shared.changed.notify_all();
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    match (request.method.as_str(), path) {
        ("GET", "/v1/status") => (200, state.status.clone()),
        ("GET", "/v1/history") => (200, state.history.clone()),
        ("GET", "/livez") => (200, json!("ok")),
        ("POST", "/v1/plan") => {
            let waits = |state: &mut State| {
                let asked = |request: &Request| request.target == "/livez";
                state.plan_is_slow && !state.requests.iter().any(asked)
            };
            let waited = shared.changed.wait_timeout_while(state, crate::DEADLINE, waits);
            (200, waited.expect("not poisoned").0.plan.clone())
        }
        ("GET", "/v1/finish") => (200, state.finish_plan.clone()),
        ("POST", "/v1/finish") => (200, crate::canned::finished()),
        ("POST", "/v1/cutover" | "/v1/rollback") => match state.start_refused.clone() {
            Some(refused) => refused,
            None => {
                state.run = Some(crate::canned::started());
                let numbered = state.events.len() as u64;
                let run = state.run.as_mut().expect("just set");
                run.last_event = numbered;
                (202, json!(run))
            }
        },
        ("POST", path) if path.ends_with("/abort") => match state.on_abort.take() {
            Some(report) => {
                state.end(report, cutover::Phase::Aborted);
                shared.changed.notify_all();
                (200, json!(state.run))
            }
            None => (409, crate::canned::error("too_late", "run 7f3a can't be aborted any more")),
        },
        ("GET", path) if path.starts_with("/v1/cutover/") => update(shared, state, query),
        _ => (404, crate::canned::error("not_found", "no such page")),
    }
}

/// The events after the one asked for; waits for one, as the sidecar does.
fn update(shared: &Shared, state: MutexGuard<'_, State>, query: &str) -> (u16, Value) {
    let number = |name: &str| -> u64 {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).expect("after and wait_ms are numbers")
    };
    let (after, wait) = (number("after="), Duration::from_millis(number("wait_ms=")));
    let nothing_new = |state: &mut State| {
        let over = state.run.as_ref().is_some_and(|run| run.report.is_some());
        !over && !state.mute && state.events.len() as u64 <= after
    };
    let (state, _) =
        shared.changed.wait_timeout_while(state, wait, nothing_new).expect("not poisoned");
    let events: Vec<_> = state.events.iter().filter(|event| event.number > after).collect();
    (200, json!({"schema_version": 1, "status": state.run, "events": events}))
}
