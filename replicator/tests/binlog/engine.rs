//! The engine in a process of its own, so that it can be killed: this test binary once more.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cutover::{Direction, api};
use decoders::mysql::server::ServerUrl;
use replicator::config::{ApplyConfig, DdlMode};
use replicator::engine::budget::Budget;
use replicator::pipeline::mysql::{BinlogPipeline, Reading};
use replicator::status::Shared;
use replicator::store::Store;
use tests::mysql::{Mysql, Version};
use tokio::sync::watch;

pub const PIPELINE: &str = "shop";

/// What the child is told, in this order.
const SETTINGS: [&str; 6] = [
    "CUTOVER_TEST_BLUE",
    "CUTOVER_TEST_GREEN",
    "CUTOVER_TEST_STATE",
    "CUTOVER_TEST_START",
    "CUTOVER_TEST_LANES",
    "CUTOVER_TEST_DDL",
];

/// A running engine. Dropping it kills it.
pub struct Engine {
    child: Child,
}

impl Engine {
    /// Starts one that goes on with `state`, or begins behind `start`.
    pub fn start(
        blue: &Mysql,
        green: &Mysql,
        state: &Path,
        start: Option<&str>,
        lanes: u16,
    ) -> Engine {
        Self::start_with(blue, green, state, start, lanes, DdlMode::Stop)
    }

    /// The same, with schema changes as `ddl` has it.
    pub fn start_with(
        blue: &Mysql,
        green: &Mysql,
        state: &Path,
        start: Option<&str>,
        lanes: u16,
        ddl: DdlMode,
    ) -> Engine {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "engine::child", "--nocapture", "--test-threads=1"]);
        let state = state.display().to_string();
        let lanes = lanes.to_string();
        let ddl = if ddl == DdlMode::Apply { "apply" } else { "stop" };
        let values = [&url(blue), &url(green), &state, start.unwrap_or_default(), &lanes, ddl];
        command.envs(SETTINGS.into_iter().zip(values));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Engine { child: command.spawn().unwrap() }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it has ended by itself, which it never should.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn url(server: &Mysql) -> String {
    format!("mysql://cutover:se%20cret@127.0.0.1:{}", server.port())
}

/// The pipeline from `blue` to `green`.
pub fn pipeline(
    blue: &str,
    green: &str,
    state: &Path,
    start: Option<&str>,
    lanes: u16,
    stop: watch::Receiver<bool>,
) -> BinlogPipeline {
    let apply = ApplyConfig { batch_transactions: 200, lanes, ..ApplyConfig::default() };
    let server =
        || api::Server { url: String::new(), database: String::new(), version: None, up: false };
    let budget = Budget::new(apply.memory_bytes);
    let shared = Shared::new(PIPELINE.to_owned(), Direction::Forward, server(), server(), budget);
    BinlogPipeline {
        name: PIPELINE.to_owned(),
        counterpart: format!("{PIPELINE}_back"),
        source: ServerUrl::parse(blue).unwrap(),
        target: ServerUrl::parse(green).unwrap(),
        start: start.map(|start| start.parse().unwrap()),
        copy: None,
        tables: Default::default(),
        database: None,
        apply,
        store: Store::open(state).unwrap(),
        shared: Arc::new(shared),
        reading: Reading::default(),
        armed: Arc::default(),
        stop,
        finished: watch::Sender::new(false).subscribe(),
    }
}

/// What is streamed from what to what.
pub const PAIRS: [(Version, Version); 2] =
    [(Version::Mariadb10_11, Version::Mariadb11_8), (Version::Mysql9_7, Version::Mysql9_7)];

/// A server with the engine's account, and what `sql` makes on it.
pub fn start(version: Version, sql: &str) -> Mysql {
    let options: &[&str] = if version.is_mariadb() { &["--binlog-format=ROW"] } else { &[] };
    let server = Mysql::start(version, options).unwrap();
    let account = "create user 'cutover'@'%' identified by 'se cret'; \
                   grant all on *.* to 'cutover'@'%';";
    server.run(&format!("{account} {sql}")).unwrap();
    server
}

/// Where a server's history ends.
pub fn head(server: &Mysql) -> String {
    let sql = match server.version().is_mariadb() {
        true => "select @@global.gtid_binlog_pos",
        false => "select replace(@@global.gtid_executed, '\\n', '')",
    };
    server.value(sql).unwrap()
}

/// Not a test of its own: the engine that others start.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(blue) = std::env::var(SETTINGS[0]) else { return };
    let [green, state, start, lanes] = [1, 2, 3, 4].map(|at| std::env::var(SETTINGS[at]).unwrap());
    let lanes = lanes.parse().unwrap();
    // Nobody reads our log, and a child whose parent is gone has no work.
    let parent = std::os::unix::process::parent_id();
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        std::process::exit(1);
    });
    let start = (!start.is_empty()).then_some(start.as_str());
    let stop = watch::Sender::new(false);
    let mut pipeline = pipeline(&blue, &green, Path::new(&state), start, lanes, stop.subscribe());
    if std::env::var(SETTINGS[5]).is_ok_and(|ddl| ddl == "apply") {
        pipeline.apply.ddl = DdlMode::Apply;
    }
    let ended = pipeline.run().await;
    if let Err(failure) = ended {
        eprintln!("{}", failure.report());
        std::process::exit(1);
    }
}
