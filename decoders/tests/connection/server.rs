//! One private PostgreSQL server for this file's tests, with users and databases that tell every
//! authentication method and every kind of connection apart.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;

use decoders::postgres::conninfo::ConnInfo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384,
};

/// The secret of every user; odd enough to be found wherever it should not be.
pub const PASSWORD: &str = "correct horse \u{e9}-battery";

/// The name in the server's certificates.
pub const SERVER_NAME: &str = "db.test";

pub struct Server {
    pub directory: PathBuf,
    pub port: u16,
    /// Closing it makes the watchdog stop the server, however this process ends.
    _watchdog: ChildStdin,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// The server, started on first use.
pub fn server() -> &'static Server {
    &SERVER
}

impl Server {
    /// A file of the server's directory: certificates, keys.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Over the Unix socket.
    pub fn socket(&self, rest: &str) -> ConnInfo {
        let directory = self.directory.join("run");
        info(&format!("host={} port={} {rest}", directory.display(), self.port))
    }

    /// Over TCP, under the name of the certificate.
    pub fn tcp(&self, rest: &str) -> ConnInfo {
        info(&self.tcp_text(rest))
    }

    pub fn tcp_text(&self, rest: &str) -> String {
        format!("host={SERVER_NAME} hostaddr=127.0.0.1 port={} {rest}", self.port)
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        let text = fs::read_to_string(self.directory.join("data/PG_VERSION")).unwrap();
        text.trim().parse().unwrap()
    }

    fn start() -> Server {
        let directory = tempfile::Builder::new()
            .prefix("cutover-connection-")
            .tempdir_in("/tmp")
            .expect("a directory")
            .keep();
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        fs::create_dir(directory.join("run")).unwrap();
        write_certificates(&directory);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();

        let data = directory.join("data");
        let quoted = |path: &Path| path.display().to_string();
        give_to_postgres(&directory);
        run(&[
            "initdb",
            "-D",
            &quoted(&data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        let mut configuration =
            fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        writeln!(
            configuration,
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{run}'\n\
             fsync = off\nwal_level = logical\nmax_wal_senders = 20\nmax_replication_slots = 20\n\
             ssl = on\nssl_cert_file = '{dir}/server-p384.crt'\nssl_key_file = '{dir}/server-p384.key'\n\
             ssl_ca_file = '{dir}/roots.crt'\npassword_encryption = 'scram-sha-256'",
            run = quoted(&directory.join("run")),
            dir = quoted(&directory),
        )
        .unwrap();
        fs::write(
            data.join("pg_hba.conf"),
            "local     all        postgres   trust\n\
             local     all        u_trust    trust\n\
             local     all        u_password password\n\
             local     all        u_md5      md5\n\
             local     all        u_scram    scram-sha-256\n\
             hostssl   tls_only   all        127.0.0.1/32 scram-sha-256\n\
             hostnossl plain_only all        127.0.0.1/32 scram-sha-256\n\
             hostssl   shop       u_cert     127.0.0.1/32 cert\n\
             host      shop       u_trust    127.0.0.1/32 trust\n\
             host      shop       u_password 127.0.0.1/32 password\n\
             host      shop       u_md5      127.0.0.1/32 md5\n\
             host      shop       u_scram    127.0.0.1/32 scram-sha-256\n\
             host      missing    u_scram    127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        let log = quoted(&directory.join("run/server.log"));
        run(&["pg_ctl", "-D", &quoted(&data), "-w", "-l", &log, "start"]);

        let stop = format!(
            "cat >/dev/null; cd /tmp; {} -D {} -m immediate stop >/dev/null 2>&1; rm -rf {}",
            as_postgres("pg_ctl").join(" "),
            quoted(&data),
            quoted(&directory),
        );
        let watchdog = Command::new("setsid")
            .args(["sh", "-c", &stop])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a watchdog")
            .stdin
            .expect("its input");

        let server = Server { directory, port, _watchdog: watchdog };
        server.run_sql(&setup_sql());
        server
    }

    /// Runs commands as the superuser.
    pub fn run_sql(&self, sql: &str) {
        let mut child = Command::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"])
            .args(["-h", &self.file("run"), "-p", &self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql");
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "psql failed");
    }
}

/// Parses without looking at the machine's own environment and home.
pub fn info(text: &str) -> ConnInfo {
    info_with(text, &[])
}

pub fn info_with(text: &str, environment: &[(&str, &str)]) -> ConnInfo {
    ConnInfo::parse_with(text, |name| {
        environment
            .iter()
            .chain(&[("HOME", "/nonexistent")])
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_string())
    })
    .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn setup_sql() -> String {
    let mut sql = String::new();
    for user in ["u_trust", "u_password", "u_scram", "u_cert"] {
        sql += &format!("CREATE ROLE {user} LOGIN REPLICATION PASSWORD '{PASSWORD}';\n");
    }
    sql += "SET password_encryption = 'md5';\n";
    sql += &format!("CREATE ROLE u_md5 LOGIN REPLICATION PASSWORD '{PASSWORD}';\n");
    // Settings that must not reach us.
    sql += "ALTER ROLE u_trust SET DateStyle = 'German';\n\
            ALTER ROLE u_trust SET TimeZone = 'Asia/Kathmandu';\n\
            ALTER ROLE u_trust SET statement_timeout = '1s';\n\
            ALTER ROLE u_trust SET search_path = 'evil';\n\
            ALTER ROLE u_trust SET bytea_output = 'escape';\n";
    for database in ["shop", "tls_only", "plain_only"] {
        sql += &format!("CREATE DATABASE {database};\n");
    }
    sql += "\\connect shop\nCREATE TABLE public.sent (body text);\n\
            GRANT INSERT ON public.sent TO PUBLIC;\n\
            CREATE PUBLICATION everything FOR TABLE public.sent;\n";
    sql
}

/// `server-{p384,p256,self}.{crt,key}`: what the server shows, each signed with another hash;
/// `roots.crt`: all their roots; `root-*.crt`: each alone; `client.{crt,key}`: for `u_cert`.
fn write_certificates(directory: &Path) {
    let write = |name: String, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let mut roots = String::new();
    for (name, algorithm) in [
        ("p384", &PKCS_ECDSA_P384_SHA384),
        ("p256", &PKCS_ECDSA_P256_SHA256),
        ("other", &PKCS_ECDSA_P256_SHA256),
    ] {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let root = authority.self_signed(&key).unwrap();
        write(format!("root-{name}.crt"), root.pem());
        let issuer = Issuer::new(authority, key);

        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([SERVER_NAME.to_owned()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        write(format!("server-{name}.crt"), leaf.pem());
        write(format!("server-{name}.key"), leaf_key.serialize_pem());
        if name == "p384" {
            let client_key = KeyPair::generate().unwrap();
            let mut client = CertificateParams::default();
            client.distinguished_name = rcgen::DistinguishedName::new();
            client.distinguished_name.push(DnType::CommonName, "u_cert");
            let client = client.signed_by(&client_key, &issuer).unwrap();
            write("client.crt".to_owned(), client.pem());
            write("client.key".to_owned(), client_key.serialize_pem());
        }
        if name != "other" {
            roots += &root.pem();
        }
    }
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new([SERVER_NAME.to_owned()]).unwrap();
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = own.self_signed(&key).unwrap();
    write("server-self.crt".to_owned(), own.pem());
    write("root-self.crt".to_owned(), own.pem());
    write("server-self.key".to_owned(), key.serialize_pem());
    roots += &own.pem();
    write("roots.crt".to_owned(), roots);
}

/// The server's user must own its directory; the files stay readable to the tests, which run as
/// the same user or as root.
fn give_to_postgres(directory: &Path) {
    if is_root() {
        let status = Command::new("chown").arg("-R").arg("postgres").arg(directory).status();
        assert!(status.unwrap().success());
        // The client's own key must belong to the client.
        let key = directory.join("client.key");
        assert!(Command::new("chown").arg("root").arg(key).status().unwrap().success());
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.starts_with(b"0\n")
}

fn as_postgres(program: &str) -> Vec<String> {
    let bin = std::env::var("CUTOVER_TEST_PG_BIN")
        .unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
    let program = format!("{bin}/{program}");
    if is_root() {
        ["runuser", "-u", "postgres", "--", &program].map(str::to_owned).to_vec()
    } else {
        vec![program]
    }
}

fn run(command: &[&str]) {
    let words = as_postgres(command[0]);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args(&command[1..])
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(output.success(), "{command:?}: {output}");
}
