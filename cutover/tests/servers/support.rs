//! Servers for these tests: each test starts its own, and they stop with it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use decoders::postgres::badge;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect_plain};
use tempfile::TempDir;

/// Until when anything here must have happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest pause that prechecks are asked about.
pub const PAUSE: Duration = Duration::from_secs(2);

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// A command as the user who may run servers.
fn as_server_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/tmp");
    command
}

fn server_directory(prefix: &str) -> TempDir {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp").unwrap();
    if is_root() {
        let status = Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap();
        assert!(status.success());
    }
    directory
}

/// Major 15, or the one in `CUTOVER_TEST_PG`.
fn default_major() -> String {
    std::env::var("CUTOVER_TEST_PG").unwrap_or_else(|_| "15".into())
}

fn binaries(major: &str) -> PathBuf {
    let unpacked = std::env::var("CUTOVER_SERVERS")
        .map(|root| PathBuf::from(root).join("pg").join(major).join("bin"));
    let packaged = PathBuf::from("/usr/lib/postgresql").join(major).join("bin");
    unpacked
        .into_iter()
        .chain([packaged])
        .find(|path| path.join("postgres").exists())
        .unwrap_or_else(|| panic!("PostgreSQL {major} is missing: run scripts/setup"))
}

/// A PostgreSQL server.
pub struct Postgres {
    child: Child,
    pub port: u16,
    _directory: TempDir,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::of(&default_major()).await
    }

    /// Of this major version.
    pub async fn of(major: &str) -> Self {
        Self::with(major, &[]).await
    }

    /// With these settings on top, as `name=value`.
    pub async fn with(major: &str, settings: &[&str]) -> Self {
        let binaries = binaries(major);
        let directory = server_directory("cutover-pg-");
        let data = directory.path().join("data");
        let output = as_server_user(&binaries.join("initdb"))
            .args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let port = free_port();
        let child = as_server_user(&binaries.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-k", "", "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "fsync=off", "-c", "wal_level=logical"])
            .args(["-c", "max_prepared_transactions=5", "-c", "max_connections=60"])
            .args(settings.iter().flat_map(|setting| ["-c", *setting]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port, _directory: directory };
        server.info("postgres").ready().await;
        server
    }

    pub fn info(&self, database: &str) -> Login {
        self.login("postgres", database)
    }

    pub fn login(&self, user: &str, database: &str) -> Login {
        Login(format!("postgresql://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port))
    }

    /// Creates a database and runs `schema` in it.
    pub async fn database(&self, name: &str, schema: &str) -> Login {
        let admin = self.info("postgres").open().await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let login = self.info(name);
        login.open().await.batch_execute(schema).await.unwrap();
        login
    }
}

impl Postgres {
    /// Gives it a certificate, so that it takes clients by TLS.
    pub async fn use_tls(&self) {
        let admin = self.info("postgres").open().await;
        let data = PathBuf::from(text(&admin, "SHOW data_directory").await.unwrap());
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        for (name, pem) in [("server.crt", made.cert.pem()), ("server.key", key)] {
            let path = data.join(name);
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                Command::new("chown").arg("postgres").arg(&path).status().unwrap();
            }
        }
        for sql in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
            admin.batch_execute(sql).await.unwrap();
        }
        let login = Login(self.info("postgres").0.replace("sslmode=disable", "sslmode=require"));
        login.ready().await;
    }

    /// Asks everybody but the superuser for a password.
    pub async fn ask_for_passwords(&self) {
        let admin = self.info("postgres").open().await;
        let file = text(&admin, "SHOW hba_file").await.unwrap();
        let rules = "host all postgres 127.0.0.1/32 trust' UNION ALL SELECT 'host all all 127.0.0.1/32 scram-sha-256";
        admin.batch_execute(&format!("COPY (SELECT '{rules}') TO '{file}'")).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let nobody = self.login("nobody", "postgres").info();
        until("the rules are read", || async {
            let refused = connect_plain(&nobody, "app").await.err();
            refused.is_some_and(|error| error.to_string().contains("password"))
        })
        .await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Immediate shutdown: SIGQUIT reaches the server through `runuser`'s child.
fn stop(child: &mut Child) {
    signal(child, "-QUIT");
}

fn signal(child: &mut Child, signal: &str) {
    let pid = child.id();
    let children = Command::new("pgrep").args(["-P", &pid.to_string()]).output();
    let own = children.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for pid in own.unwrap_or_default().split_whitespace().chain([pid.to_string().as_str()]) {
        Command::new("kill").args([signal, pid]).stderr(Stdio::null()).status().unwrap();
    }
    child.wait().unwrap();
}

/// How to log in.
#[derive(Clone)]
pub struct Login(pub String);

impl Login {
    pub fn info(&self) -> ConnInfo {
        ConnInfo::parse(&self.0).unwrap()
    }

    /// As an application would, without the settings of our own sessions.
    pub async fn open(&self) -> Session {
        self.open_as("app").await
    }

    /// As an application of that name would.
    pub async fn open_as(&self, name: &str) -> Session {
        connect_plain(&self.info(), name).await.unwrap()
    }

    /// One that passes for a session of the fence's own process.
    pub async fn open_as_ours(&self, name: &str) -> Session {
        let session = self.open_as(name).await;
        session.batch_execute(&badge::take_sql()).await.unwrap();
        session
    }

    async fn ready(&self) {
        let began = Instant::now();
        while let Err(error) = connect_plain(&self.info(), "app").await {
            assert!(began.elapsed() < PATIENCE, "the server does not come up: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The first column of the first row, as text.
pub async fn text(session: &Session, sql: &str) -> Option<String> {
    let messages = session.simple_query(sql).await.unwrap();
    messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// The first column of the first row, as a number.
pub async fn number(session: &Session, sql: &str) -> i64 {
    text(session, sql).await.unwrap().parse().unwrap()
}

/// A PgBouncer in front of blue.
pub struct PgBouncer {
    child: Child,
    pub port: u16,
    pub ini: PathBuf,
    _directory: TempDir,
}

impl PgBouncer {
    pub async fn start(database: &str, to_port: u16, to_database: &str, mode: &str) -> Self {
        let directory = server_directory("cutover-pgb-");
        let port = free_port();
        let ini = directory.path().join("pgbouncer.ini");
        let users = directory.path().join("users.txt");
        std::fs::write(&users, "\"postgres\" \"\"\n\"slow\" \"\"\n").unwrap();
        let text = format!(
            "; kept as it is\n[databases]\n{database} = host=127.0.0.1 port={to_port} \
             dbname={to_database} pool_size=5\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             admin_users = postgres\npool_mode = {mode}\nmax_client_conn = 100\n\
             ignore_startup_parameters = extra_float_digits\n",
            users.display()
        );
        std::fs::write(&ini, text).unwrap();
        if is_root() {
            for file in [&ini, &users] {
                Command::new("chown").arg("postgres").arg(file).status().unwrap();
            }
        }
        let child = spawn_pgbouncer(&ini);
        let bouncer = Self { child, port, ini, _directory: directory };
        bouncer.client("pgbouncer").ready().await;
        bouncer
    }

    pub fn client(&self, database: &str) -> Login {
        Login(format!("postgresql://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port))
    }
}

/// A PgBouncer with this configuration.
fn spawn_pgbouncer(ini: &Path) -> Child {
    let binary = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
        .into_iter()
        .map(PathBuf::from)
        .chain(
            std::env::var("CUTOVER_SERVERS")
                .map(|root| PathBuf::from(root).join("pgbouncer/bin/pgbouncer")),
        )
        .find(|path| path.exists())
        .expect("PgBouncer is missing: run scripts/setup");
    as_server_user(&binary).arg(ini).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl PgBouncer {
    /// `kill -9`, and started anew.
    pub async fn crash(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        signal(&mut self.child, "-KILL");
    }

    /// Started anew after that.
    pub async fn restart(&mut self) {
        self.child = spawn_pgbouncer(&self.ini);
        self.client("pgbouncer").ready().await;
    }

    /// Edits the configuration and has it loaded.
    pub async fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.ini).unwrap();
        std::fs::write(&self.ini, change(text)).unwrap();
        self.client("pgbouncer").open().await.simple_query("RELOAD").await.unwrap();
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Polls until `condition` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A deadline far enough away.
pub fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(20)
}
