//! A real server per test binary, a database per test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use decoders::change::{
    Cell, ChangeEvent, Column, Lsn, OldRow, Part, QualifiedName, ReplicaIdentity, Row, TableId,
    TableSchema, Transaction,
};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use decoders::source::Disposition;
use sinks::postgres::{PgLane, PgTarget, PgTargetOptions};
use sinks::progress::StreamIdentity;
use sinks::{Lane as _, LaneId, Target as _, TargetError};

/// A server that lives as long as this process: it ends when its standard input closes.
pub struct Server {
    port: u16,
    _child: Child,
}

/// Major version under test: `SINKS_TEST_PG`, or 15.
pub fn major() -> u32 {
    std::env::var("SINKS_TEST_PG").ok().and_then(|text| text.parse().ok()).unwrap_or(15)
}

fn binaries() -> PathBuf {
    let unpacked = std::env::var("CUTOVER_SERVERS").unwrap_or("/var/cache/cutover".to_owned());
    let own = PathBuf::from(format!("{unpacked}/pg/{}/bin", major()));
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{}/bin", major()));
    if own.join("postgres").exists() { own } else { debian }
}

/// As user postgres when we are root: postgres refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/tmp");
    command
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn start() -> Server {
    let bin = binaries();
    let dir = tempfile::Builder::new().prefix("cutover-sinks-").tempdir().expect("a directory");
    let dir = dir.keep();
    // Its owner is who removes it in the end.
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
    let port = free_port();
    let mut config = std::fs::OpenOptions::new()
        .append(true)
        .open(data.join("postgresql.conf"))
        .expect("postgresql.conf");
    writeln!(
        config,
        "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
         fsync = off\nmax_connections = 100\nshared_buffers = 32MB\nwal_level = logical\n\
         max_replication_slots = 100"
    )
    .expect("configuration");
    if major() >= 18 {
        writeln!(config, "max_active_replication_origins = 100").expect("configuration");
    }
    // The shell outlives neither the server nor us, however we end.
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
    Server { port, _child: child }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

/// A fresh database.
pub struct Db {
    pub name: String,
    pub green: ConnInfo,
    pub sql: Session,
}

impl Db {
    /// Creates a database and runs `ddl` in it.
    pub async fn new(ddl: &str) -> Db {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = admin().await;
        // Two CREATE DATABASE at once wait for each other's template.
        admin.batch_execute("SELECT pg_advisory_lock(1)").await.expect("lock");
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("database");
        let green = conn_info("postgres", &name);
        let sql = connect(&green, "test").await.expect("connection");
        let reset = "SET search_path = public; SET client_min_messages = warning";
        sql.batch_execute(reset).await.expect("settings");
        sql.batch_execute(ddl).await.expect("ddl");
        Db { name, green, sql }
    }

    /// The same database as another user.
    pub fn as_user(&self, user: &str) -> ConnInfo {
        conn_info(user, &self.name)
    }

    /// All rows of a query as text, one line a row, columns separated by `|`, NULL as `~`.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        let messages = self.sql.simple_query(query).await.expect("query");
        let mut lines = Vec::new();
        for message in messages {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                let cells: Vec<&str> =
                    (0..row.len()).map(|at| row.get(at).unwrap_or("~")).collect();
                lines.push(cells.join("|"));
            }
        }
        lines
    }

    pub async fn exec(&self, sql: &str) {
        self.sql.batch_execute(sql).await.expect("sql");
    }

    pub async fn target(&self) -> PgTarget {
        PgTarget::open(self.green.clone(), options(self)).await.expect("target")
    }

    pub async fn lane(&self) -> PgLane {
        self.target().await.open_lane(LaneId(0)).await.expect("lane")
    }

    /// The source table that looks like green's now.
    pub async fn table(&self, name: &str, identity: ReplicaIdentity) -> Arc<TableSchema> {
        let name = QualifiedName::new("public", name);
        self.qualified(&name, identity).await
    }

    pub async fn qualified(
        &self,
        name: &QualifiedName,
        identity: ReplicaIdentity,
    ) -> Arc<TableSchema> {
        let sql = "SELECT a.attname::text, a.atttypid, a.atttypmod,
                          EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
                                  AND a.attnum = ANY (i.indkey)), c.oid
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
                        AND NOT a.attisdropped
                        AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = ''
                   WHERE n.nspname = $1 AND c.relname = $2 ORDER BY a.attnum";
        let rows = self.sql.query(sql, &[&name.schema, &name.name]).await.expect("table");
        let columns = rows.iter().filter_map(|row| {
            Some(Column {
                name: row.get::<_, Option<String>>(0)?,
                type_oid: row.get(1),
                type_modifier: row.get(2),
                in_key: identity == ReplicaIdentity::Full || row.get(3),
            })
        });
        Arc::new(TableSchema {
            id: TableId(rows[0].get(4)),
            name: name.clone(),
            identity,
            columns: columns.collect(),
        })
    }
}

/// A session of the superuser in another database.
pub async fn admin() -> Session {
    connect_when_up(&conn_info("postgres", "postgres")).await
}

fn conn_info(user: &str, database: &str) -> ConnInfo {
    let port = server().port;
    let url = format!("postgresql://{user}@127.0.0.1:{port}/{database}?sslmode=disable");
    ConnInfo::parse(&url).expect("connection string")
}

async fn connect_when_up(info: &ConnInfo) -> Session {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match connect(info, "test").await {
            Ok(session) => return session,
            Err(e) if Instant::now() > deadline => panic!("the server does not come up: {e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Polls until `holds` gives true.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Options for a database of its own pipeline: replication origins are the whole server's.
pub fn options(db: &Db) -> PgTargetOptions {
    PgTargetOptions {
        stream: StreamIdentity {
            pipeline: db.name.clone(),
            system_identifier: "7000000000000000001".to_owned(),
            database: "shop".to_owned(),
            slot: "cutover_p".to_owned(),
            consistent_point: Lsn(0x100),
        },
        use_origin: true,
        accept_triggers: false,
    }
}

/// A cell from text; `~` is NULL, `?` is an unchanged TOAST value.
pub fn cell(text: &str) -> Cell<'_> {
    match text {
        "~" => Cell::NULL,
        "?" => Cell::Unchanged,
        text => Cell::text(text),
    }
}

pub fn row(cells: &[&str]) -> Row {
    cells.iter().map(|text| cell(text)).collect::<Vec<_>>().into()
}

pub fn insert(table: &Arc<TableSchema>, new: &[&str]) -> ChangeEvent {
    ChangeEvent::Insert { table: table.clone(), new: row(new) }
}

/// UPDATE whose key did not change.
pub fn update(table: &Arc<TableSchema>, new: &[&str]) -> ChangeEvent {
    ChangeEvent::Update { table: table.clone(), old: None, new: row(new) }
}

/// UPDATE with an old image: the key, or the full row if the identity is FULL.
pub fn update_from(table: &Arc<TableSchema>, old: &[&str], new: &[&str]) -> ChangeEvent {
    ChangeEvent::Update { table: table.clone(), old: Some(old_row(table, old)), new: row(new) }
}

pub fn delete(table: &Arc<TableSchema>, old: &[&str]) -> ChangeEvent {
    ChangeEvent::Delete { table: table.clone(), old: old_row(table, old) }
}

fn old_row(table: &TableSchema, old: &[&str]) -> OldRow {
    match table.identity {
        ReplicaIdentity::Full => OldRow::Full(row(old)),
        _ => OldRow::Key(row(old)),
    }
}

/// The `n`th source transaction, whole.
pub fn tx(n: u64, changes: Vec<ChangeEvent>) -> Transaction {
    part(n, Part::Whole, changes)
}

pub fn part(n: u64, part: Part, changes: Vec<ChangeEvent>) -> Transaction {
    Transaction {
        part,
        xid: n as u32,
        commit_lsn: Lsn(0x1000 + n * 0x100),
        end_lsn: part.ends().then_some(end(n)),
        committed_at_us: 1_700_000_000_000_000 + n as i64,
        origin: None,
        bytes: 100 * changes.len(),
        changes,
    }
}

pub fn end(n: u64) -> Lsn {
    Lsn(0x1000 + n * 0x100 + 0x30)
}

/// Applies changes as one transaction.
pub async fn apply(
    lane: &mut PgLane,
    n: u64,
    changes: Vec<ChangeEvent>,
) -> Result<(), TargetError> {
    let applied = lane.apply(&[tx(n, changes)]).await?;
    assert_eq!(applied.end_lsn, Some(end(n)));
    assert_eq!(applied.transactions, 1);
    Ok(())
}

impl Db {
    /// Waits until a backend is gone.
    pub async fn gone(&self, pid: i32) {
        until("the backend ends", || async move {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
            self.sql.query_one(sql, &[&pid]).await.expect("pids").get::<_, i64>(0) == 0
        })
        .await;
    }
}

/// A role that owns nothing special; `grants` are given by a superuser.
pub async fn lane_of(db: &Db, user: &str, grants: &str) -> PgLane {
    db.exec(&format!(
        "DO $$ BEGIN CREATE ROLE {user} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT CREATE ON DATABASE {} TO {user};
         GRANT USAGE ON SCHEMA public TO {user};
         GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {user};
         {grants}",
        db.name
    ))
    .await;
    let target = PgTarget::open(db.as_user(user), options(db)).await.unwrap();
    target.open_lane(LaneId(0)).await.unwrap()
}

/// Lane 0 of a target whose last one was killed; `None` while the killed backend still holds it.
pub async fn lane_again(target: &PgTarget) -> Option<PgLane> {
    match target.open_lane(LaneId(0)).await {
        Ok(lane) => Some(lane),
        Err(error) if error.disposition == Disposition::Retry => None,
        Err(error) => panic!("{error}"),
    }
}

/// Kills a backend when `table` has this many rows.
pub async fn killed_at(db: &Db, pid: i32, table: &str, rows: u64) {
    until("progress or the end", || async {
        let sql = format!("SELECT count(*) FROM {table}");
        db.sql.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) as u64 >= rows
    })
    .await;
    db.exec(&format!("SELECT pg_terminate_backend({pid})")).await;
}
