//! Servers for these tests, and accounts as an operator would make them.

use std::time::{Duration, Instant};

use cutover::marker::MYSQL_MARKER_TABLE;
use decoders::mysql::server::{ServerUrl, connect};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
pub use tests::mysql::{Mysql, Version};

/// Until when anything here must have happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `mover`, the account that cuts over, needs on MySQL and on MariaDB.
const RIGHTS: [&str; 2] = [
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, TRIGGER, EVENT, PROCESS, RELOAD, CREATE USER, \
     REPLICATION SLAVE, REPLICATION CLIENT, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, \
     SYSTEM_USER, XA_RECOVER_ADMIN ON *.* TO mover",
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, TRIGGER, EVENT, PROCESS, RELOAD, CREATE USER, \
     REPLICATION SLAVE, BINLOG MONITOR, SLAVE MONITOR, SUPER, READ_ONLY ADMIN, CONNECTION ADMIN, \
     BINLOG ADMIN ON *.* TO mover",
];

/// A test for each version that is installed.
macro_rules! on_all_servers {
    ($($name:ident),* $(,)?) => {
        mod mariadb_10_11 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::Version::Mariadb10_11).await;
            })*
        }
        mod mariadb_11_8 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::Version::Mariadb11_8).await;
            })*
        }
        mod mysql_9_7 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::Version::Mysql9_7).await;
            })*
        }
    };
}

/// A server with a database `shop`, the account that cuts over, a client and one that may do anything.
pub struct Site {
    pub server: Mysql,
}

impl Site {
    pub fn start(version: Version) -> Self {
        Self::with(version, &[])
    }

    pub fn with(version: Version, options: &[&str]) -> Self {
        let server = Mysql::start(version, options).unwrap();
        let rights = RIGHTS[usize::from(version.is_mariadb())];
        let sql = format!(
            "CREATE USER mover IDENTIFIED BY 'm'; {rights}; \
             CREATE USER app IDENTIFIED BY 'a'; GRANT ALL ON shop.* TO app; \
             CREATE USER boss IDENTIFIED BY 'b'; GRANT ALL ON *.* TO boss WITH GRANT OPTION; \
             CREATE DATABASE shop; \
             CREATE TABLE shop.a (id bigint AUTO_INCREMENT PRIMARY KEY, who varchar(40))"
        );
        server.run(&sql).unwrap();
        for sql in MYSQL_MARKER_TABLE {
            server.run(sql).unwrap();
        }
        Self { server }
    }

    /// As the account that cuts over.
    pub fn mover(&self) -> ServerUrl {
        self.url("mover:m", self.server.port())
    }

    /// As a client.
    pub fn app(&self) -> ServerUrl {
        self.url("app:a", self.server.port())
    }

    /// As somebody who may do anything.
    pub fn boss(&self) -> ServerUrl {
        self.url("boss:b", self.server.port())
    }

    /// As the account that `CREATE USER little` has made.
    pub fn little(&self) -> ServerUrl {
        self.url("little:l", self.server.port())
    }

    /// The account that cuts over, at another port.
    pub fn mover_at(&self, port: u16) -> ServerUrl {
        self.url("mover:m", port)
    }

    fn url(&self, account: &str, port: u16) -> ServerUrl {
        let text = format!("mysql://{account}@127.0.0.1:{port}/shop?ssl-mode=disabled");
        ServerUrl::parse(&text).unwrap()
    }
}

/// Opens a session.
pub async fn open(url: &ServerUrl) -> Conn {
    connect(url).await.unwrap()
}

/// Rows as text, fields joined by a space, rows by a comma.
pub async fn text(conn: &mut Conn, sql: &str) -> String {
    let rows: Vec<mysql_async::Row> = conn.query(sql).await.unwrap();
    let field = |value: mysql_async::Value| match value {
        mysql_async::Value::NULL => "NULL".to_owned(),
        mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.as_sql(true),
    };
    let row = |row: mysql_async::Row| row.unwrap().into_iter().map(field).collect::<Vec<_>>();
    rows.into_iter().map(|r| row(r).join(" ")).collect::<Vec<_>>().join(", ")
}

/// Everything that a fence may change, as text.
pub async fn settings(site: &Site) -> String {
    let mut session = open(&site.mover()).await;
    let (variables, accounts) = match site.server.version().is_mariadb() {
        true => (
            "SELECT lower(variable_name), variable_value FROM information_schema.global_variables \
             WHERE variable_name IN ('read_only', 'event_scheduler', 'sql_log_bin', 'init_connect') \
             ORDER BY 1",
            "SELECT user, host, coalesce(json_value(priv, '$.account_locked'), 0), \
             coalesce(json_value(priv, '$.plugin'), 'mysql_native_password'), \
             coalesce(json_value(priv, '$.authentication_string'), '') \
             FROM mysql.global_priv ORDER BY 1, 2",
        ),
        false => (
            "SELECT g.*, p.variable_value FROM performance_schema.global_variables g \
             LEFT JOIN performance_schema.persisted_variables p USING (variable_name) \
             WHERE variable_name IN ('read_only', 'super_read_only', 'offline_mode', \
             'event_scheduler', 'init_connect') ORDER BY 1",
            "SELECT user, host, account_locked, authentication_string FROM mysql.user ORDER BY 1, 2",
        ),
    };
    let mut all = text(&mut session, variables).await;
    all = format!("{all}; {}", text(&mut session, accounts).await);
    let table = "SELECT count(*) FROM information_schema.tables \
                 WHERE table_schema = '_cutover' AND table_name = 'fence'";
    if text(&mut session, table).await == "1" {
        all += &text(&mut session, "SELECT closed_by FROM _cutover.fence").await;
    }
    all
}

/// Polls until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
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
