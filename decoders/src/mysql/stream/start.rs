//! From a connection to a dump: is the place still there, is our identity free, what is agreed on.

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{BinlogStreamRequest, Conn, Row, Sid};

use crate::mysql::gtid::{BinlogPosition, GtidPosition, GtidSet};
use crate::mysql::server::{self, Server, ServerUrl, failure, literal};
use crate::source::SourceError;

use super::frames::Frames;
use super::options::{Start, StreamOptions};

/// A dump that was asked for.
pub(super) struct Started {
    pub(super) server: Server,
    pub(super) position: BinlogPosition,
    pub(super) frames: Frames,
    /// Names in another case are the same.
    pub(super) folds_case: bool,
}

/// How long the server waits for us to take what it writes, in seconds. A target may stall; the
/// servers' own 60 s would end the dump then.
const WRITE_TIMEOUT_S: u32 = 3600;

pub(super) async fn start(
    url: &ServerUrl,
    options: &StreamOptions,
) -> Result<Started, SourceError> {
    let mut conn = server::connect(url).await?;
    let server = Server::read(&mut conn).await?;
    refuse_without_log(&mut conn, &server).await?;
    let position = position(&mut conn, &server, &options.start).await?;
    refuse_collision(&mut conn, &server, options).await?;
    let sql = "SELECT @@GLOBAL.lower_case_table_names <> 0";
    let folds_case = value::<bool>(&mut conn, "way with the case of names", sql).await?;
    agree(&mut conn, &server, &position, options).await?;
    let name = options.name.as_bytes();
    let request = BinlogStreamRequest::new(options.server_id).with_hostname(name);
    let stream = match &position {
        BinlogPosition::Mysql(set) => {
            conn.get_binlog_stream(request.with_gtid().with_gtid_set(sids(set)?)).await
        }
        // The position is in `@slave_connect_state`; no file means "by that".
        BinlogPosition::Mariadb(_) => conn.get_binlog_stream(request).await,
    };
    let stream = stream.map_err(|error| failure("cannot start reading the binlog", error))?;
    Ok(Started { server, position, frames: Frames::new(stream), folds_case })
}

async fn value<T: FromValue + Send + 'static>(
    conn: &mut Conn,
    what: &str,
    sql: &str,
) -> Result<T, SourceError> {
    let row: Option<Row> = conn
        .query_first(sql)
        .await
        .map_err(|error| failure(format!("cannot ask the server for {what}"), error))?;
    let value = row.and_then(|mut row| row.take_opt(0)).and_then(Result::ok);
    value.ok_or_else(|| SourceError::retry(format!("the server does not say its {what}")))
}

async fn refuse_without_log(conn: &mut Conn, server: &Server) -> Result<(), SourceError> {
    if !value::<bool>(conn, "binary log", "SELECT @@GLOBAL.log_bin").await? {
        return Err(SourceError::halt(
            format!("the server ({server}) writes no binlog; no change can be read"),
            "set log_bin in its configuration and restart it",
        ));
    }
    if !server.is_mariadb() {
        let mode: String = value(conn, "GTID mode", "SELECT @@GLOBAL.gtid_mode").await?;
        if mode != "ON" {
            return Err(SourceError::halt(
                format!("the server runs with gtid_mode = {mode}: no position would be safe"),
                "turn GTIDs on: enforce_gtid_consistency = ON, then gtid_mode = OFF_PERMISSIVE, \
                 ON_PERMISSIVE and ON, one after the other with SET PERSIST",
            ));
        }
    }
    Ok(())
}

/// Where to begin, which the server must still have.
async fn position(
    conn: &mut Conn,
    server: &Server,
    start: &Start,
) -> Result<BinlogPosition, SourceError> {
    let wanted = match start {
        Start::Behind(position) => position.clone(),
        Start::Now => return now(conn, server).await,
    };
    match (wanted, server.is_mariadb()) {
        (BinlogPosition::Mysql(set), false) => {
            refuse_lost(conn, &set).await?;
            Ok(BinlogPosition::Mysql(set))
        }
        (BinlogPosition::Mariadb(position), true) => Ok(BinlogPosition::Mariadb(position)),
        // An empty position has no family.
        (BinlogPosition::Mysql(set), true) if set.is_empty() => {
            Ok(BinlogPosition::Mariadb(GtidPosition::new()))
        }
        (other, _) => Err(SourceError::halt(
            format!("the position {other} is not one of this server ({server})"),
            "give the position as this server writes it, or connect to the other server",
        )),
    }
}

/// What the server has committed by now.
///
/// # Errors
/// The question failed, or the answer is no position.
pub async fn head(conn: &mut Conn, server: &Server) -> Result<BinlogPosition, SourceError> {
    now(conn, server).await
}

async fn now(conn: &mut Conn, server: &Server) -> Result<BinlogPosition, SourceError> {
    let sql = match server.is_mariadb() {
        true => "SELECT @@GLOBAL.gtid_binlog_pos",
        false => "SELECT @@GLOBAL.gtid_executed",
    };
    let text: String = value(conn, "position", sql).await?;
    let unreadable =
        |error| SourceError::halt("the server's position", "report this").caused_by(error);
    match server.is_mariadb() {
        true => text.parse().map(BinlogPosition::Mariadb).map_err(unreadable),
        false => text.parse().map(BinlogPosition::Mysql).map_err(unreadable),
    }
}

/// MySQL tells what it has thrown away and what it never had; a dump would find out late or, for
/// transactions that it never had, not at all.
async fn refuse_lost(conn: &mut Conn, set: &GtidSet) -> Result<(), SourceError> {
    let read = async |conn: &mut Conn, name: &str| -> Result<GtidSet, SourceError> {
        let text: String = value(conn, name, &format!("SELECT @@GLOBAL.{name}")).await?;
        text.parse().map_err(|error| {
            SourceError::halt("the server's GTIDs", "report this").caused_by(error)
        })
    };
    let mut missing = read(conn, "gtid_purged").await?;
    missing.subtract(set);
    if !missing.is_empty() {
        return Err(purged(&BinlogPosition::Mysql(missing).to_string()));
    }
    let mut foreign = set.clone();
    foreign.subtract(&read(conn, "gtid_executed").await?);
    if !foreign.is_empty() {
        let foreign = BinlogPosition::Mysql(foreign);
        return Err(SourceError::halt(
            format!(
                "the server does not have {foreign}, which were read before: it is another server, or \
                 it lost transactions in a failover"
            ),
            "connect to the server that has them, or copy again from this one",
        ));
    }
    Ok(())
}

/// The error for transactions that are needed and gone.
pub(super) fn purged(what: &str) -> SourceError {
    SourceError::halt(
        format!(
            "the server has purged binlogs that are still needed ({what}): what was applied \
             is whole up to the position before them, and what stood in them can't be had any more"
        ),
        "copy again from now on, and keep binlogs longer: binlog_expire_logs_seconds (MySQL, MariaDB \
         10.6+) or expire_logs_days",
    )
}

/// Another replica with our identity would be thrown off by the server, or throw us off, again and
/// again.
async fn refuse_collision(
    conn: &mut Conn,
    server: &Server,
    options: &StreamOptions,
) -> Result<(), SourceError> {
    let id = options.server_id;
    let taken = |by: String| {
        SourceError::halt(
            format!("server_id {id} is taken by {by}; connecting would end that connection"),
            "choose a server_id that no server and no replica has",
        )
    };
    if id == 0 {
        return Err(SourceError::halt("server_id 0 is no identity", "choose a number from 1 on"));
    }
    if id == server.server_id {
        return Err(taken(format!("the server itself ({server})")));
    }
    let sql = match server.number >= (8, 0, 22) && !server.is_mariadb() {
        true => "SHOW REPLICAS",
        false => "SHOW SLAVE HOSTS",
    };
    let replicas: Vec<Row> = match conn.query(sql).await {
        Ok(replicas) => replicas,
        Err(error) => {
            let reason = server::describe(&error);
            tracing::warn!(%reason, "whether another replica has our server_id is not known");
            return Ok(());
        }
    };
    for mut row in replicas {
        let other: Option<u32> = row.take_opt(0).and_then(Result::ok);
        let host: Option<String> = row.take_opt(1).and_then(Result::ok);
        // An earlier connection of our own, which the server has not noticed to be dead.
        if other == Some(id) && host.as_deref() != Some(options.name.as_str()) {
            let host = host.filter(|host| !host.is_empty());
            return Err(taken(format!("the replica {}", host.as_deref().unwrap_or("(no name)"))));
        }
    }
    Ok(())
}

/// Settings of our session that the sending thread looks at.
async fn agree(
    conn: &mut Conn,
    server: &Server,
    position: &BinlogPosition,
    options: &StreamOptions,
) -> Result<(), SourceError> {
    let heartbeat_ns = options.heartbeat.as_nanos().max(1_000_000);
    let mut settings = vec![
        format!("net_write_timeout = {WRITE_TIMEOUT_S}"),
        format!("@master_heartbeat_period = {heartbeat_ns}"),
        "@master_binlog_checksum = @@GLOBAL.binlog_checksum".to_owned(),
    ];
    match position {
        BinlogPosition::Mysql(_) => {
            settings.push(format!("@source_heartbeat_period = {heartbeat_ns}"));
            settings.push("@source_binlog_checksum = @@GLOBAL.binlog_checksum".to_owned());
            let uuid = literal(&uuid(options));
            settings.push(format!("@replica_uuid = {uuid}, @slave_uuid = {uuid}"));
        }
        BinlogPosition::Mariadb(position) => {
            // 4 is MARIA_SLAVE_CAPABILITY_GTID: send GTID events as they are.
            settings.push("@mariadb_slave_capability = 4".to_owned());
            settings
                .push("@slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0".to_owned());
            settings.push(format!("@slave_connect_state = {}", literal(&position.to_string())));
        }
    }
    let sql = format!("SET {}", settings.join(", "));
    let agreed = conn.query_drop(sql).await;
    agreed.map_err(|error| failure(format!("cannot prepare reading the binlog of {server}"), error))
}

/// The same name and server_id are the same replica: MySQL ends our own earlier connection, and no
/// other's.
fn uuid(options: &StreamOptions) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{} {}", options.server_id, options.name));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The set in the driver's terms, which hold one tag each.
fn sids(set: &GtidSet) -> Result<Vec<Sid<'static>>, SourceError> {
    let sids = set.iter().map(|(sid, tag, numbers)| {
        let text = match tag.as_str() {
            "" => format!("{sid}:{numbers}"),
            tag => format!("{sid}:{tag}:{numbers}"),
        };
        text.parse().map_err(|error| {
            SourceError::halt(format!("the driver does not take {text}"), "report this")
                .caused_by(error)
        })
    });
    sids.collect()
}
