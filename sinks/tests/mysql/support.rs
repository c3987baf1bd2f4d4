//! Two servers, a stream of the one, and a lane to the other.

use std::time::Duration;

use decoders::change::Transaction;
use decoders::mysql::Place;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::mysql::stream::{NumberedStream, StreamOptions};
use decoders::postgres::catalog::TableFilter;
use decoders::{Lsn, Source, SourceEvent};
use sinks::mysql::{BinlogStreamIdentity, MysqlLane, MysqlTarget, MysqlTargetOptions};
use sinks::own::MESSAGE_PREFIX;
use sinks::{Lane, LaneId, Reached, Target};
use tests::mysql::{Mysql, Version};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// Whose changes go to whom.
pub const PAIRS: [(Version, Version); 2] =
    [(Version::Mariadb10_11, Version::Mariadb11_8), (Version::Mysql9_7, Version::Mysql9_7)];

/// Blue and green with the same tables.
pub struct Pair {
    pub blue: Mysql,
    pub green: Mysql,
    pub start: BinlogPosition,
    /// The tables that are moved.
    pub filter: TableFilter,
    /// Whether rows may go as row events.
    pub row_events: bool,
    /// Whether schema changes are repeated.
    pub applies_definitions: bool,
}

impl Pair {
    /// Starts both, runs `tables` in schema `t` of both, and remembers where blue is then.
    pub fn start(versions: (Version, Version), tables: &str) -> Pair {
        Pair::start_with(versions, &[], tables)
    }

    /// The same with options for both servers.
    pub fn start_with((blue, green): (Version, Version), options: &[&str], tables: &str) -> Pair {
        let server = |version: Version| {
            let mut options = options.to_vec();
            if version.is_mariadb() {
                options.push("--binlog-format=ROW");
            }
            let server = Mysql::start(version, &options).unwrap();
            server
                .run(
                    "create user 'cutover'@'%' identified by 'se cret';
                     grant all on *.* to 'cutover'@'%'; create database t;",
                )
                .unwrap();
            server.run(&format!("use t; set sql_mode = ''; {tables}")).unwrap();
            server
        };
        let (blue, green) = (server(blue), server(green));
        let start = head(&blue);
        Pair {
            blue,
            green,
            start,
            filter: TableFilter::default(),
            row_events: true,
            applies_definitions: false,
        }
    }

    pub fn name(&self) -> &'static str {
        self.blue.version().name()
    }

    pub fn identity(&self) -> BinlogStreamIdentity {
        BinlogStreamIdentity {
            pipeline: "it's".into(),
            source: self.blue.port().to_string(),
            start: self.start.clone(),
        }
    }

    pub async fn target(&self) -> MysqlTarget {
        let options = MysqlTargetOptions {
            stream: self.identity(),
            accept_triggers: false,
            applies_definitions: self.applies_definitions,
            row_events: self.row_events,
        };
        MysqlTarget::open(url(&self.green), options).await.unwrap()
    }

    /// As after a start: what green says, a stream behind the place that it has stored, and a lane.
    pub async fn open(&self) -> Opened {
        self.open_in_parts(decoders::assemble::PART_BYTES_DEFAULT).await
    }

    /// The same when green has ended the sessions that were dropped.
    pub async fn open_when_free(&self) -> Opened {
        let name = "select count(*) from information_schema.processlist where user = 'cutover'";
        let ended = || async { Ok((self.green.value(name)? == "0").then_some(())) };
        tests::wait::until("sessions to end", DEADLINE, ended).await.unwrap();
        self.open().await
    }

    /// The same with large transactions in parts of so many bytes.
    pub async fn open_in_parts(&self, part_bytes: usize) -> Opened {
        let target = self.target().await;
        let reached = target.progress().await.unwrap();
        let server_id = u32::from(self.blue.port()) + 100_000;
        let mut options = StreamOptions::new(server_id, "cutover test");
        options.part_bytes = part_bytes;
        options.filter = self.filter.clone();
        options.keeps_images = self.row_events;
        let blue = url(&self.blue);
        let stream = NumberedStream::open(&blue, options, target.place(), MESSAGE_PREFIX);
        let stream = stream.await.unwrap();
        target.follow(stream.ledger(), stream.version_logs_cascades());
        let lane = target.open_lane(LaneId(0)).await.unwrap();
        Opened { reached, stream, lane }
    }

    /// What both select, table by table, is the same.
    pub fn assert_same(&self, tables: &[&str]) {
        for table in tables {
            let (blue, green) = (selected(&self.blue, table), selected(&self.green, table));
            for (blue, green) in blue.iter().zip(&green) {
                let show = |row: &Vec<Vec<u8>>| {
                    row.iter()
                        .map(|field| String::from_utf8_lossy(field).into_owned())
                        .collect::<Vec<_>>()
                };
                assert!(
                    blue == green,
                    "{} {table}:\n{:?}\n{:?}",
                    self.name(),
                    show(blue),
                    show(green)
                );
            }
            assert_eq!(blue.len(), green.len(), "{} {table}", self.name());
        }
    }
}

/// Every column of every row, invisible ones too.
pub fn selected(server: &Mysql, table: &str) -> Vec<Vec<Vec<u8>>> {
    let columns = server
        .rows(&format!(
            "select column_name, data_type from information_schema.columns
             where table_schema = 't' and table_name = '{table}' order by ordinal_position"
        ))
        .unwrap();
    let fields = columns.iter().map(|column| {
        let quoted = format!("`{}`", String::from_utf8_lossy(&column[0]));
        match &column[1][..] {
            b"float" => format!("{quoted} + 0e0, {quoted} is null"),
            b"char" | b"varchar" | b"text" | b"enum" => {
                format!("hex(convert({quoted} using utf8mb4)), {quoted} is null")
            }
            _ => format!("{quoted}, {quoted} is null"),
        }
    });
    let fields: Vec<String> = fields.collect();
    let mut rows = server.rows(&format!("select {} from t.`{table}`", fields.join(", "))).unwrap();
    rows.sort();
    rows
}

pub fn url(server: &Mysql) -> ServerUrl {
    let text = format!("mysql://cutover:se%20cret@127.0.0.1:{}", server.port());
    ServerUrl::parse(&text).unwrap()
}

/// Where the server is by its own account.
pub fn head(server: &Mysql) -> BinlogPosition {
    let sql = match server.version().is_mariadb() {
        true => "select @@global.gtid_binlog_pos",
        false => "select replace(@@global.gtid_executed, '\\n', '')",
    };
    server.value(sql).unwrap().parse().unwrap()
}

/// A stream that has been taken up.
pub struct Opened {
    pub reached: Reached,
    pub stream: NumberedStream,
    pub lane: MysqlLane,
}

impl Opened {
    /// What `blue` has committed by now, behind what green has.
    pub async fn read(&mut self, blue: &Mysql) -> Vec<Transaction> {
        let head = head(blue);
        let mut found = Vec::new();
        while !self.stream.position().covers(&head) {
            let event = tokio::time::timeout(DEADLINE, self.stream.next()).await;
            if let SourceEvent::Transaction(transaction) = event.expect("an event").unwrap() {
                found.push(transaction);
            }
        }
        found.retain(|transaction| Some(transaction.commit_lsn) >= self.reached.through);
        found
    }

    /// Applies what `blue` has committed by now, so many transactions at a time.
    pub async fn catch_up(&mut self, blue: &Mysql, at_once: usize) {
        let transactions = self.read(blue).await;
        for some in transactions.chunks(at_once) {
            let applied = self.lane.apply(some).await;
            let applied = applied.unwrap_or_else(|error| panic!("{error} {:?}", error.remedy));
            assert_eq!(applied.end_lsn, some.last().and_then(|last| last.end_lsn));
        }
    }

    pub async fn close(self) {
        self.lane.close().await;
        self.stream.close().await;
    }
}

/// The place that green has stored.
pub async fn stored(pair: &Pair) -> (Place, Option<Lsn>) {
    let target = pair.target().await;
    let reached = target.progress().await.unwrap();
    (target.place(), reached.through)
}
