//! How fast green takes pgbench's TPC-B transactions: batches of 5,000 and of 50,000 transactions as
//! their net change, against the same changes row by row.
//!
//! `cargo bench -p sinks --bench apply_tpcb`. Green is the empty database of `CUTOVER_BENCH_GREEN`
//! (a connection string), or a server of its own (`CUTOVER_BENCH_PG`: its major version, 15), with
//! pgbench's tables at scale 10. Only the lane's calls are timed. The last line is one JSON object.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use decoders::change::{
    Cell, ChangeEvent, Column, Lsn, Part, QualifiedName, ReplicaIdentity, Row, TableId,
    TableSchema, Transaction,
};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use sinks::postgres::{PgLane, PgTarget, PgTargetOptions};
use sinks::progress::StreamIdentity;
use sinks::{Lane as _, LaneId, Target as _};

const SCALE: u64 = 10;
const RUNS: usize = 3;

const TABLES: &str = "
DROP TABLE IF EXISTS pgbench_accounts, pgbench_tellers, pgbench_branches, pgbench_history;
DROP SCHEMA IF EXISTS _cutover CASCADE;
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))
  WITH (fillfactor = 100);
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))
  WITH (fillfactor = 100);
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))
  WITH (fillfactor = 100);
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp,
  filler char(22));
INSERT INTO pgbench_branches SELECT bid, 0 FROM generate_series(1, 10) bid;
INSERT INTO pgbench_tellers SELECT tid, (tid - 1) / 10 + 1, 0 FROM generate_series(1, 100) tid;
INSERT INTO pgbench_accounts
  SELECT aid, (aid - 1) / 100000 + 1, 0, '' FROM generate_series(1, 1000000) aid;
VACUUM ANALYZE;
CHECKPOINT;";

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let own = std::env::var("CUTOVER_BENCH_GREEN").is_err().then(Server::start);
    let url = match &own {
        Some(server) => server.url(),
        None => std::env::var("CUTOVER_BENCH_GREEN").expect("a connection string"),
    };
    let green = ConnInfo::parse(&url).expect("a connection string");
    let session = runtime.block_on(connect_when_up(&green));
    let ways = [
        ("row by row", 5_000, 25_000, true),
        ("batches of 5,000", 5_000, 100_000, false),
        ("batches of 50,000", 50_000, 200_000, false),
    ];
    let mut rates = [const { Vec::new() }; 3];
    for run in 0..RUNS {
        for ((name, batch, transactions, rows), rates) in ways.iter().zip(&mut rates) {
            let rate = runtime.block_on(measure(&session, &green, *batch, *transactions, *rows));
            eprintln!("run {run}: {name}: {rate:.0} transactions/s");
            rates.push(rate);
        }
    }
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    let median = |way: usize| rates[way][RUNS / 2];
    let (peer, ours, large) = (median(0), median(1), median(2));
    println!(
        "{{\"bench\":\"apply_tpcb\",\"ours\":{ours:.0},\"peer\":{peer:.0},\"ratio\":{:.2},\
         \"unit\":\"transactions/s\",\"runs\":{RUNS},\"spread\":{:.3},\"batches_of_50000\":{large:.0}}}",
        ours / peer,
        (rates[1][RUNS - 1] - rates[1][0]) / ours
    );
}

async fn measure(
    session: &Session,
    green: &ConnInfo,
    batch: u64,
    transactions: u64,
    rows: bool,
) -> f64 {
    session.batch_execute("SET search_path = public").await.expect("settings");
    for statement in TABLES.split(';').filter(|statement| !statement.trim().is_empty()) {
        session.batch_execute(statement).await.expect("tables");
    }
    if rows {
        session.batch_execute(ROW_BY_ROW).await.expect("a trigger");
    }
    let stream = StreamIdentity {
        pipeline: "bench".to_owned(),
        system_identifier: "1".to_owned(),
        database: "bench".to_owned(),
        slot: "bench".to_owned(),
        consistent_point: Lsn(1),
    };
    let options = PgTargetOptions { stream, use_origin: false, accept_triggers: rows };
    let target = PgTarget::open(green.clone(), options).await.expect("green");
    let mut lane = target.open_lane(LaneId(0)).await.expect("a lane");
    let mut source = TpcB::new();
    // Plans and statements.
    apply(&mut lane, &source.take(100)).await;
    let mut spent = Duration::ZERO;
    let (mut ours, mut greens) = (0.0, 0.0);
    let pid = lane.backend_pid();
    for _ in 0..transactions / batch {
        let transactions = source.take(batch);
        let (before, before_green) = (cpu_us("self"), cpu_us(&pid.to_string()));
        spent += apply(&mut lane, &transactions).await;
        ours += cpu_us("self") - before;
        greens += cpu_us(&pid.to_string()) - before_green;
    }
    let per = |us: f64| us / transactions as f64;
    eprintln!("CPU a transaction: ours {:.2} us, green's backend {:.2} us", per(ours), per(greens));
    let applied = transactions / batch * batch + 100;
    let row = session.query_one("SELECT count(*), sum(delta) FROM pgbench_history", &[]).await;
    let row = row.expect("the result");
    assert_eq!(row.get::<_, i64>(0), applied as i64);
    let sum = "SELECT sum(abalance), (SELECT sum(bbalance) FROM pgbench_branches),
                      (SELECT sum(tbalance) FROM pgbench_tellers) FROM pgbench_accounts";
    let sums = session.query_one(sum, &[]).await.expect("the result");
    assert!((0..3).all(|at| sums.get::<_, i64>(at) == row.get::<_, i64>(1)), "balances agree");
    let expected = if rows { lane.ways().row_by_row } else { lane.ways().as_a_whole };
    assert_eq!(expected, transactions / batch + 1);
    lane.close().await;
    applied as f64 / spent.as_secs_f64()
}

async fn apply(lane: &mut PgLane, transactions: &[Transaction]) -> Duration {
    let start = Instant::now();
    lane.apply(transactions).await.expect("applied");
    start.elapsed()
}

/// CPU time of a process in microseconds, to 10 ms; 0 if it is not on this machine (Linux manual,
/// proc(5): utime and stime).
fn cpu_us(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

async fn connect_when_up(green: &ConnInfo) -> Session {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match connect(green, "bench").await {
            Ok(session) => return session,
            Err(error) if Instant::now() > deadline => panic!("no server: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Never fires here; but where a trigger may, changes are written row by row.
const ROW_BY_ROW: &str = "
CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER never BEFORE DELETE ON pgbench_branches EXECUTE PROCEDURE nothing()";

/// pgbench's transactions with their true balances, in binary as a stream brings them.
struct TpcB {
    random: u64,
    number: u64,
    accounts: Vec<i32>,
    tellers: Vec<i32>,
    branches: Vec<i32>,
    schemas: [Arc<TableSchema>; 4],
}

impl TpcB {
    fn new() -> Self {
        const INT: u32 = 23;
        const CHAR: u32 = 1042;
        const TIMESTAMP: u32 = 1114;
        let schema = |id, name: &str, key: usize, columns: &[(&str, u32, i32)]| {
            let column =
                |(at, (name, type_oid, type_modifier)): (usize, &(&str, u32, i32))| Column {
                    name: (*name).to_owned(),
                    type_oid: *type_oid,
                    type_modifier: *type_modifier,
                    in_key: at < key,
                };
            Arc::new(TableSchema {
                id: TableId(id),
                name: QualifiedName::new("public", name),
                identity: ReplicaIdentity::Default,
                columns: columns.iter().enumerate().map(column).collect(),
            })
        };
        let balance = |key, of, length| {
            [(key, INT, -1), ("bid", INT, -1), (of, INT, -1), ("filler", CHAR, length + 4)]
        };
        let branch = [("bid", INT, -1), ("bbalance", INT, -1), ("filler", CHAR, 92)];
        let history = [
            ("tid", INT, -1),
            ("bid", INT, -1),
            ("aid", INT, -1),
            ("delta", INT, -1),
            ("mtime", TIMESTAMP, -1),
            ("filler", CHAR, 26),
        ];
        Self {
            random: 42,
            number: 0,
            accounts: vec![0; SCALE as usize * 100_000],
            tellers: vec![0; SCALE as usize * 10],
            branches: vec![0; SCALE as usize],
            schemas: [
                schema(1, "pgbench_accounts", 1, &balance("aid", "abalance", 84)),
                schema(2, "pgbench_tellers", 1, &balance("tid", "tbalance", 84)),
                schema(3, "pgbench_branches", 1, &branch),
                schema(4, "pgbench_history", 0, &history),
            ],
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as usize % limit
    }

    fn take(&mut self, count: u64) -> Vec<Transaction> {
        (0..count).map(|_| self.one()).collect()
    }

    fn one(&mut self) -> Transaction {
        self.number += 1;
        let (account, teller, branch) = (
            self.below(self.accounts.len()),
            self.below(self.tellers.len()),
            self.below(self.branches.len()),
        );
        let delta = self.below(10_000) as i32 - 5_000;
        self.accounts[account] += delta;
        self.tellers[teller] += delta;
        self.branches[branch] += delta;
        let int = |value: usize| (value as i32).to_be_bytes();
        let filler = [b' '; 84];
        let [accounts, tellers, branches, history] = &self.schemas;
        let update = |table: &Arc<TableSchema>, new: Row| ChangeEvent::Update {
            table: table.clone(),
            old: None,
            new,
        };
        let (aid, tid, bid) = (int(account + 1), int(teller + 1), int(branch + 1));
        let balance = |value: i32| value.to_be_bytes();
        let account_row = [
            Cell::binary(&aid),
            Cell::binary(&int(account / 100_000 + 1)),
            Cell::binary(&balance(self.accounts[account])),
            Cell::binary(&filler),
        ]
        .into_iter()
        .collect();
        let teller_row = [
            Cell::binary(&tid),
            Cell::binary(&int(teller / 10 + 1)),
            Cell::binary(&balance(self.tellers[teller])),
            Cell::NULL,
        ]
        .into_iter()
        .collect();
        let branch_row =
            [Cell::binary(&bid), Cell::binary(&balance(self.branches[branch])), Cell::NULL]
                .into_iter()
                .collect();
        let new = [
            Cell::binary(&tid),
            Cell::binary(&bid),
            Cell::binary(&aid),
            Cell::binary(&delta.to_be_bytes()),
            Cell::binary(&(self.number as i64 * 1_000_000).to_be_bytes()),
            Cell::NULL,
        ]
        .into_iter()
        .collect();
        let changes = vec![
            update(accounts, account_row),
            update(tellers, teller_row),
            update(branches, branch_row),
            ChangeEvent::Insert { table: history.clone(), new },
        ];
        let commit_lsn = Lsn(0x1000 + self.number * 0x400);
        Transaction {
            part: Part::Whole,
            xid: self.number as u32,
            commit_lsn,
            end_lsn: Some(Lsn(commit_lsn.0 + 0x30)),
            committed_at_us: self.number as i64,
            origin: None,
            bytes: 500,
            changes,
        }
    }
}

/// A server that ends with this process: its shell waits for our end of a pipe.
struct Server {
    port: u16,
    _child: Child,
}

impl Server {
    fn start() -> Self {
        let major = std::env::var("CUTOVER_BENCH_PG").unwrap_or_else(|_| "15".to_owned());
        let unpacked = PathBuf::from(format!("/var/cache/cutover/pg/{major}/bin"));
        let bin = match unpacked.join("postgres").exists() {
            true => unpacked,
            false => PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        };
        let dir = tempfile::Builder::new().prefix("cutover-apply-").tempdir().expect("a directory");
        let dir = dir.keep();
        if let Some(postgres) = nix::unistd::User::from_name("postgres").expect("users")
            && nix::unistd::geteuid().is_root()
        {
            nix::unistd::chown(&dir, Some(postgres.uid), Some(postgres.gid)).expect("owner");
        }
        let data = dir.join("data");
        let made = unprivileged(&bin.join("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N", "-D"])
            .arg(&data)
            .output()
            .expect("initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let mut config = std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .expect("postgresql.conf");
        writeln!(
            config,
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
             shared_buffers = 1GB\nmax_wal_size = 16GB\ncheckpoint_timeout = 1h\n\
             autovacuum = off\nwal_level = logical"
        )
        .expect("configuration");
        let script = r#""$1/postgres" -D "$2" >"$2/log" 2>&1 & server=$!
            cat >/dev/null; kill -INT $server; wait $server; rm -rf "$3""#;
        let child = unprivileged(Path::new("/bin/sh"))
            .args(["-c", script, "sh"])
            .args([&bin, &data, &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres");
        Self { port, _child: child }
    }

    fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }
}

/// As user postgres when we are root: postgres refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = match nix::unistd::geteuid().is_root() {
        false => Command::new(program),
        true => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        }
    };
    command.current_dir("/tmp");
    command
}
