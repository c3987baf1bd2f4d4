//! MySQL and MariaDB: servers with every fault, each of which has to be named, and each suggested
//! statement has to make its finding go away.

use std::collections::BTreeSet;

use decoders::mysql::server::ServerUrl;
use replicator::check::mysql::{BinlogCheckRequest, gather, judge};
use replicator::check::{Fix, Report, Severity, Side};
use tests::mysql::{Mysql, Version};

fn url(server: &Mysql, account: &str) -> ServerUrl {
    ServerUrl::parse(&format!("mysql://{account}@127.0.0.1:{}/t", server.port())).unwrap()
}

async fn report(blue: &Mysql, green: &Mysql, account: &str) -> Report {
    let request = BinlogCheckRequest {
        database: Some("t".to_owned()),
        schema_exists: true,
        server_ids: vec![7],
        ..BinlogCheckRequest::default()
    };
    judge(&request, &gather(&request, &url(blue, account), &url(green, account)).await)
}

fn of(report: &Report, severity: Severity) -> BTreeSet<&'static str> {
    let findings = report.findings.iter().filter(|finding| finding.severity == severity);
    findings.map(|finding| finding.id).collect()
}

const ACCOUNT: &str = "create database t; create user 'cutover'@'%' identified by 'x';";

#[tokio::test]
async fn two_servers_in_order_are_ready() {
    for version in Version::ALL {
        let options = ["--event-scheduler=OFF", "--binlog-expire-logs-seconds=259200"];
        let (blue, green) =
            (Mysql::start(version, &options).unwrap(), Mysql::start(version, &options).unwrap());
        for server in [&blue, &green] {
            server.run(ACCOUNT).unwrap();
            server
                .run("grant all on *.* to 'cutover'@'%'; create table t.a(id int primary key)")
                .unwrap();
        }
        let report = report(&blue, &green, "cutover:x").await;
        assert!(report.ready, "{}:\n{report}", version.name());
        assert_eq!(
            of(&report, Severity::Warning),
            BTreeSet::new(),
            "{}:\n{report}",
            version.name()
        );
        assert!(report.ok >= 14, "{report}");
    }
}

const FAULTY_BLUE: &str = "
use t; create table good(id int primary key);
create table keyless(v int); create table parent(id int primary key);
create table child(id int primary key, p int, foreign key (p) references parent(id) on delete cascade);
create table m(id int primary key) engine = myisam;
set sql_mode = ''; create table zero(id int primary key, d datetime default '0000-00-00 00:00:00');
set global binlog_row_metadata = 'MINIMAL'; set global binlog_row_image = 'MINIMAL';
set global binlog_expire_logs_seconds = 3600; set global sql_mode = '';
set global max_allowed_packet = 134217728;
";

const FAULTY_GREEN: &str = "
use t; create table good(id int primary key);
create trigger tr before insert on good for each row set @a = 1;
create event ev on schedule every 1 day do set @a = 1; set global event_scheduler = on;
set global max_allowed_packet = 16777216; set global read_only = on;
";

/// Runs what the report says, apart from advice, and only where the account is not what lacks.
fn repair(report: &Report, blue: &Mysql, green: &Mysql) {
    for finding in &report.findings {
        let Some(Fix::Sql { side, statements, .. }) = &finding.fix else { continue };
        let server = if *side == Side::Blue { blue } else { green };
        for statement in statements {
            server.run(statement).unwrap_or_else(|error| panic!("{}: {error:#}", finding.id));
        }
    }
}

#[tokio::test]
async fn every_fault_is_named_and_its_repair_works() {
    for version in Version::ALL {
        let (blue, green) =
            (Mysql::start(version, &[]).unwrap(), Mysql::start(version, &[]).unwrap());
        for server in [&blue, &green] {
            server.run(ACCOUNT).unwrap();
        }
        blue.run(FAULTY_BLUE).unwrap();
        green.run(FAULTY_GREEN).unwrap();
        if version.is_mariadb() {
            blue.run("set global binlog_format = 'MIXED'; set global gtid_strict_mode = off")
                .unwrap();
            // MySQL refuses zero dates by default, MariaDB takes them.
            green.run("set global sql_mode = concat(@@global.sql_mode, ',NO_ZERO_DATE')").unwrap();
        }
        // Without rights nothing of a table is seen; the rights are what is named then.
        let blind = report(&blue, &green, "cutover:x").await;
        for id in ["right-replication", "right-read", "right-write"] {
            assert_eq!(
                blind.find(id).map(|f| f.severity),
                Some(Severity::Blocker),
                "{id}:\n{blind}"
            );
        }
        for server in [&blue, &green] {
            server.run("grant all on *.* to 'cutover'@'%'").unwrap();
        }
        let before = report(&blue, &green, "cutover:x").await;
        let mut blockers = BTreeSet::from([
            "binlog-row-image",
            "engine",
            "triggers",
            "events",
            "green-read-only",
            "packets",
            "zero-dates",
            "tables",
        ]);
        let mut warnings = BTreeSet::from([
            "binlog-row-metadata",
            "binlog-retention",
            "identity-missing",
            "sql-mode",
        ]);
        if version.is_mariadb() {
            blockers.insert("binlog-format");
            warnings.extend(["gtids", "cascades"]);
        }
        let name = version.name();
        assert_eq!(of(&before, Severity::Blocker), blockers, "{name}:\n{before}");
        assert!(of(&before, Severity::Warning).is_superset(&warnings), "{name}:\n{before}");
        repair(&before, &blue, &green);
        let after = report(&blue, &green, "cutover:x").await;
        // What a person has to choose stays.
        assert_eq!(
            of(&after, Severity::Blocker),
            BTreeSet::from(["tables", "zero-dates"]),
            "{name}:\n{after}"
        );
        for id in ["binlog-row-metadata", "binlog-retention", "gtids", "binlog-format"] {
            assert_eq!(
                after.find(id).map(|f| f.severity),
                Some(Severity::Ok),
                "{name} {id}:\n{after}"
            );
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_together_is_named() {
    let older = Mysql::start(Version::Mariadb10_11, &["--gtid-domain-id=1"]).unwrap();
    let same_id = format!("--server-id={}", older.port());
    let newer =
        Mysql::start(Version::Mariadb11_8, &[&same_id, "--lower-case-table-names=1"]).unwrap();
    let other = Mysql::start(Version::Mysql9_7, &[]).unwrap();
    for server in [&older, &newer, &other] {
        server.run(ACCOUNT).unwrap();
        server
            .run("grant all on *.* to 'cutover'@'%'; create table t.a(id int primary key)")
            .unwrap();
    }
    let found = report(&older, &newer, "cutover:x").await;
    for id in ["server-ids", "table-names"] {
        assert_eq!(found.find(id).map(|f| f.severity), Some(Severity::Blocker), "{id}:\n{found}");
    }
    newer.run("create table t.b(v varchar(9)) collate utf8mb4_uca1400_ai_ci").unwrap();
    let back = report(&newer, &older, "cutover:x").await;
    assert_eq!(back.find("older-version").map(|f| f.severity), Some(Severity::Warning), "{back}");
    other.run("create table t.c(v varchar(9)) collate utf8mb4_0900_as_cs").unwrap();
    let across = report(&other, &older, "cutover:x").await;
    for id in ["engine-family", "collations"] {
        assert_eq!(across.find(id).map(|f| f.severity), Some(Severity::Blocker), "{id}:\n{across}");
    }
    let wrong = report(&older, &newer, "nobody:secret").await;
    assert_eq!(wrong.find("unreachable").map(|f| f.side), Some(Side::Blue));
    assert!(!wrong.to_string().contains("secret"), "{wrong}");
}
