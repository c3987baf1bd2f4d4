//! One of the two servers, whatever its engine: how it is started, killed, reached and asked.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::ledger;
use crate::mysql::{MOVER_IN_URL, Mysql, Version, create_accounts};
use crate::postgres::{self, Postgres, connect_url};
use crate::stage::{APP, DATABASE};

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Postgres,
    Mariadb,
    Mysql,
}

impl Engine {
    pub const ALL: [Engine; 3] = [Engine::Postgres, Engine::Mariadb, Engine::Mysql];

    pub fn name(self) -> &'static str {
        match self {
            Engine::Postgres => "postgres",
            Engine::Mariadb => "mariadb",
            Engine::Mysql => "mysql",
        }
    }

    pub fn is_postgres(self) -> bool {
        self == Engine::Postgres
    }
}

/// A server's engine and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres(u32),
    Mysql(Version),
}

impl Kind {
    pub fn name(self) -> String {
        match self {
            Kind::Postgres(major) => major.to_string(),
            Kind::Mysql(version) => version.name().into(),
        }
    }

    pub fn is_postgres(self) -> bool {
        matches!(self, Kind::Postgres(_))
    }
}

/// What was committed survives `kill -9`, which it does not by the defaults of other tests.
const SURVIVES_KILL: [&str; 1] = ["--innodb-flush-log-at-trx-commit=2"];

/// A server with the accounts of application and sidecar. Dropping it ends it.
#[derive(Debug)]
pub enum Server {
    Postgres(Box<Postgres>),
    Mysql(Box<Mysql>),
}

impl Server {
    pub async fn start(kind: Kind) -> Result<Server> {
        match kind {
            Kind::Postgres(major) => {
                let start = move || Postgres::builder(major).start();
                let server = tokio::task::spawn_blocking(start).await??;
                server.create_role(APP).await?;
                let create = format!("CREATE DATABASE {DATABASE} OWNER {APP}");
                server.execute("postgres", &create).await?;
                Ok(Server::Postgres(Box::new(server)))
            }
            Kind::Mysql(version) => {
                let start = move || -> Result<Mysql> {
                    let server = Mysql::start(version, &SURVIVES_KILL)?;
                    create_accounts(&server)?;
                    Ok(server)
                };
                Ok(Server::Mysql(Box::new(tokio::task::spawn_blocking(start).await??)))
            }
        }
    }

    /// Makes the tables of the ledger and of the faults, with their rows, on blue.
    pub async fn fill(&self, accounts: u32) -> Result<()> {
        match self {
            Server::Postgres(server) => {
                let app = connect_url(&server.url_as(APP, DATABASE)).await?;
                ledger::prepare(&app, accounts).await?;
                app.batch_execute(TABLES).await?;
                Ok(())
            }
            Server::Mysql(server) => server.run(&format!(
                "create database {DATABASE}; use {DATABASE}; {} {MYSQL_TABLES}",
                ledger::mysql::tables(accounts)
            )),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Server::Postgres(server) => Kind::Postgres(server.major()),
            Server::Mysql(server) => Kind::Mysql(server.version()),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Server::Postgres(server) => server.port(),
            Server::Mysql(server) => server.port(),
        }
    }

    /// `kill -9` of all of its processes.
    pub fn kill9(&mut self) -> Result<()> {
        match self {
            Server::Postgres(server) => server.kill9(),
            Server::Mysql(server) => server.kill9(),
        }
    }

    pub fn is_running(&mut self) -> bool {
        match self {
            Server::Postgres(server) => server.is_running(),
            Server::Mysql(server) => server.pid().is_some(),
        }
    }

    pub fn start_again(&mut self) -> Result<()> {
        match self {
            Server::Postgres(server) => server.start(),
            Server::Mysql(server) => server.start_again(),
        }
    }

    pub fn log_path(&self) -> PathBuf {
        match self {
            Server::Postgres(server) => server.log_path(),
            Server::Mysql(server) => server.log_path(),
        }
    }

    /// Of PostgreSQL.
    pub fn postgres(&self) -> Result<&Postgres> {
        match self {
            Server::Postgres(server) => Ok(server),
            Server::Mysql(_) => bail!("a fault of PostgreSQL"),
        }
    }

    /// The application's URL at this port, which may be a router's.
    pub fn app_url_at(&self, port: u16) -> String {
        match self {
            Server::Postgres(_) => format!("postgres://{APP}@127.0.0.1:{port}/{DATABASE}"),
            Server::Mysql(_) => format!("mysql://{APP}:{APP}@127.0.0.1:{port}/{DATABASE}"),
        }
    }

    /// The application's, past every router.
    pub fn app_url(&self) -> String {
        self.app_url_at(self.port())
    }

    /// The sidecar's URL at this port; a closed side lets its account in.
    pub fn own_url_at(&self, port: u16) -> String {
        match self {
            Server::Postgres(server) => {
                server.url(DATABASE).replace(&format!(":{}/", server.port()), &format!(":{port}/"))
            }
            Server::Mysql(_) => format!("mysql://{MOVER_IN_URL}@127.0.0.1:{port}/{DATABASE}"),
        }
    }

    /// For the judge: always let in.
    pub fn own_url(&self) -> String {
        self.own_url_at(self.port())
    }

    /// Everything that a fence may change: whether and how clients are let in.
    pub async fn settings(&self) -> Result<String> {
        match self {
            Server::Postgres(server) => server.value("postgres", &settings_of_postgres()).await,
            Server::Mysql(server) => {
                let sql = match server.version().is_mariadb() {
                    true => SETTINGS_OF_MARIADB,
                    false => SETTINGS_OF_MYSQL,
                };
                value(&self.own_url(), sql).await
            }
        }
    }
}

impl Server {
    /// Of MySQL and MariaDB: how many rows each table has, and the sum of their sums.
    pub async fn contents(&self) -> Result<String> {
        let mut session = Client::open(&self.own_url()).await?;
        let columns = format!(
            "select group_concat(concat(t.table_name, ':', t.names) order by t.table_name \
             separator ';') from (select table_name, group_concat(concat('`', column_name, '`') \
             order by ordinal_position) names from information_schema.columns \
             where table_schema = '{DATABASE}' group by table_name) t"
        );
        let mut all = Vec::new();
        for table in session.value(&columns).await?.split(';') {
            let (name, columns) = table.split_once(':').context("a table without columns")?;
            let sum = format!(
                "select concat(count(*), ' ', coalesce(sum(crc32(concat_ws('|', {columns}))), 0)) \
                 from `{name}`"
            );
            all.push(format!("{name}: {}", session.value(&sum).await?));
        }
        Ok(all.join(", "))
    }
}

/// A session of anybody.
pub enum Client {
    Postgres(tokio_postgres::Client),
    Mysql(Box<Conn>),
}

impl Client {
    pub async fn open(url: &str) -> Result<Client> {
        match url.starts_with("mysql://") {
            true => {
                let conn = Conn::new(ledger::mysql::options(url)?).await?;
                Ok(Client::Mysql(Box::new(conn)))
            }
            false => Ok(Client::Postgres(connect_url(url).await?)),
        }
    }

    /// Runs statements to their end, or to the first that fails.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        match self {
            Client::Postgres(client) => {
                client.batch_execute(sql).await.map_err(|error| postgres::describe(&error))
            }
            Client::Mysql(conn) => {
                for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
                    conn.query_drop(statement).await?;
                }
                Ok(())
            }
        }
    }

    /// The first field of the first row.
    pub async fn value(&mut self, sql: &str) -> Result<String> {
        let value = match self {
            Client::Postgres(client) => {
                let rows = postgres::rows(client, sql).await?;
                rows.first().and_then(|row| row.first().cloned().flatten())
            }
            Client::Mysql(conn) => {
                let row: Option<Row> = conn.query_first(sql).await?;
                row.and_then(|mut row| row.take_opt::<String, _>(0)).transpose()?
            }
        };
        value.with_context(|| format!("no answer: {sql}"))
    }
}

/// What a client of this URL is answered.
pub async fn value(url: &str, sql: &str) -> Result<String> {
    Client::open(url).await?.value(sql).await
}

/// Runs statements as a client of this URL.
pub async fn run(url: &str, sql: &str) -> Result<()> {
    Client::open(url).await?.run(sql).await
}

/// Which server is behind this URL: no two answer the same.
pub async fn server_behind(url: &str) -> Result<String> {
    let sql = match url.starts_with("mysql://") {
        true => "SELECT @@port",
        false => "SELECT pg_postmaster_start_time()::text",
    };
    value(url, sql).await
}

/// Besides the ledger: what the judge and the faults write to.
const TABLES: &str = "
    CREATE TABLE public.probe (token text PRIMARY KEY);
    CREATE TABLE public.victim (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO public.victim SELECT n, 0 FROM generate_series(1, 20) n";
const MYSQL_TABLES: &str = "
    create table probe (token varchar(80) primary key);
    create table victim (id int primary key, n int not null);
    insert into victim values (1,0), (2,0), (3,0), (4,0), (5,0), (6,0), (7,0), (8,0), (9,0);";

/// No list of rights means the default ones (manual 5.7), so both are read as what they allow.
fn settings_of_postgres() -> String {
    format!(
        "SELECT concat_ws(' | ', datallowconn, datconnlimit,
             (SELECT string_agg(concat_ws(':', grantee, grantor, privilege_type, is_grantable), ', '
                                ORDER BY grantee, grantor, privilege_type)
              FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))),
             (SELECT string_agg(concat_ws(':', setrole, setconfig::text), ', ' ORDER BY setrole)
              FROM pg_db_role_setting WHERE setdatabase = d.oid),
             (SELECT string_agg(concat_ws(':', rolname, rolcanlogin, rolconfig::text), ', '
                                ORDER BY rolname)
              FROM pg_roles WHERE rolname !~ '^pg_'))
         FROM pg_database d WHERE datname = '{DATABASE}'"
    )
}

const SETTINGS_OF_MYSQL: &str = "
    select concat_ws(' | ', @@global.read_only, @@global.super_read_only, @@global.offline_mode,
        @@global.event_scheduler, @@global.init_connect,
        (select group_concat(concat_ws(':', user, host, account_locked) order by user, host)
         from mysql.user))";
/// An account that was never locked and one that is not any more are the same.
const SETTINGS_OF_MARIADB: &str = "
    select concat_ws(' | ', @@global.read_only, @@global.event_scheduler, @@global.init_connect,
        (select group_concat(concat_ws(':', user, host,
                    coalesce(json_value(priv, '$.account_locked'), 0)) order by user, host)
         from mysql.global_priv))";
